"""What do the networks reach on Fashion-MNIST, on a laptop's processor? One command a row.

    python -m benchmarks.zoo lenet5      train that row; run again, it goes on where it stopped;
                                         a network without a row takes its family's recipe
    python -m benchmarks.zoo             the table of the rows that are done
    python -m benchmarks.zoo --ship      put the small ones into the package, 8 MB at most

All 60,000 training images are trained on, and none is held back: nothing is chosen by any
accuracy. The 10,000 test images are measured once, after the last epoch. Each row's JSON is written
to results/zoo as the row ends.
"""

import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import cnnarch
from benchmarks.measure import RESULTS, machine, versions, write
from cnnarch.training import Recipe, build_model, default_recipe, load_data, train

DATA = "fashion_mnist"
RUNS = Path("runs/zoo")
FOLDER = RESULTS / "zoo"
PACKAGE = Path(cnnarch.__file__).parent / "weights" / DATA
SHIPPED = sorted(path.stem for path in PACKAGE.glob("*.safetensors"))
SMALL = 1_000_000  # parameters, of what comes with the package


class Row(NamedTuple):
    """A network of the zoo.

    Args:
        network: its builder.
        changes: keys that differ from the recipe of its family and Fashion-MNIST.
        published: what others report for the architecture, in the data set's own list.
        source: which entry of the list that is.
    """

    network: str
    changes: Mapping[str, Any]
    published: float | None = None
    source: str = ""


ENLARGED = {"model_options": {}, "image_resolution": 64}
"""Images enlarged to 64 pixels: less than half the work of `small_images` at 32 pixels."""

ROWS = {
    row.network: row
    for row in (
        Row("lenet5", {"num_epochs": 20}, 0.885, "LeNet of DL_image, 10 epochs"),
        Row("convnet", {"num_epochs": 20}, 0.903, "3 conv + pooling + BN"),
        Row("resnet20_cifar", {"num_epochs": 15}, 0.949, "ResNet-18, flips and more"),
        Row("densenet_bc_40_12_cifar", {"num_epochs": 5}, 0.954, "DenseNet-BC, 768 K"),
        Row(
            "vgg11_bn",  # a quarter of the channels and no smaller first strides
            {"num_epochs": 8, "learning_rate": 0.05, "model_options": {"width": 0.25}},
            0.935,
            "VGG16, 26 M",
        ),
        Row("mobilenet_v1", {**ENLARGED, "num_epochs": 7}, 0.950, "MobileNet, flips"),
        Row("googlenet_bn", {**ENLARGED, "num_epochs": 6}, 0.937, "GoogLeNet"),
        Row("se_resnet18", {**ENLARGED, "num_epochs": 6}),
        Row("nin_cifar", {"num_epochs": 5}),
        Row("efficientnet_b0", {**ENLARGED, "num_epochs": 4, "precision": "32-true"}),
        Row("alexnet_owt", {"num_epochs": 4}, 0.899, "AlexNet (triplet loss)"),
        Row("mixer_s32", {"num_epochs": 4}),
    )
}


def row_of(network: str) -> Row:
    """The row of a network; one without changes where there is none."""
    return ROWS.get(network) or Row(cnnarch.get_model_builder(network).__name__, {})


def recipe_of(row: Row) -> Recipe:
    """The recipe of the row's family, with the row's changes and nothing held back."""
    recipe = default_recipe(row.network, DATA)
    return replace(recipe, **{"validation": 0.0, **row.changes})


class Clock:
    """Prints the figures of each epoch and adds up the processor time of all, over restarts.

    Where other programs keep the machine busy, a row's minutes say little about its work.

    Args:
        path: file that keeps the sum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: float = json.loads(path.read_text()) if path.exists() else 0.0
        self.last = time.process_time()

    def __call__(self, figures: Mapping[str, float]) -> None:
        now = time.process_time()
        self.seconds, self.last = self.seconds + now - self.last, now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.seconds))
        print(json.dumps(figures), flush=True)


def train_row(row: Row) -> dict[str, Any]:
    """Train the row, or what is left of it, and keep its figures."""
    recipe = recipe_of(row)
    data = load_data(DATA, image_resolution=recipe.image_resolution)
    model = build_model(row.network, data, recipe)
    clock = Clock(RUNS / f"{row.network}.seconds.json")
    results = train(
        model,
        data.adapt_to(model, recipe.image_resolution),
        recipe,
        RUNS / row.network,
        resume=True,
        progress=True,
        on_epoch_end=clock,
    )
    assert results is not None  # there is one process
    record = {
        "network": row.network,
        "options": results["options"],
        "recipe": asdict(recipe),
        "image_resolution": data.adapt_to(model, recipe.image_resolution).preprocessing.crop_size,
        "parameters": results["parameters"],
        "accuracy": results["test"]["top1"],
        "published": row.published,
        "published_as": row.source,
        "epochs": results["epochs"],
        "minutes": results["minutes"],
        "cpu_minutes": clock.seconds / 60,
        "threads": results["machine"]["threads"],
        "seed": results["seed"],
        "command": f"python -m benchmarks.zoo {row.network}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
    }
    write(FOLDER / f"{row.network}.json", record)
    return record


def table() -> str:
    """The rows that are done, as Markdown."""
    lines = [
        "| network | parameters | input | epochs | seed | minutes | core minutes | accuracy "
        "| published |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    others = sorted({path.stem for path in FOLDER.glob("*.json")} - ROWS.keys())
    for name in (*ROWS, *others):
        path = FOLDER / f"{name}.json"
        if path.exists():
            row = json.loads(path.read_text())
            known = row["published"]
            published = "" if known is None else f"{known:.3f} ({row['published_as']})"
            lines.append(
                f"| {name} | {row['parameters']:,} | {row['image_resolution']} | {row['epochs']} "
                f"| {row['seed']} | {row['minutes']:.1f} | {row['cpu_minutes']:.1f} "
                f"| {row['accuracy']:.4f} | {published} |"
            )
    return "\n".join(lines)


def ship() -> None:
    """Copy the weights and records of the small rows that are done into the package."""
    PACKAGE.mkdir(exist_ok=True)
    for record in FOLDER.glob("*.json"):
        weights = RUNS / record.stem / "model.safetensors"
        if weights.exists() and json.loads(record.read_text())["parameters"] < SMALL:
            shutil.copyfile(weights, PACKAGE / f"{record.stem}.safetensors")
            shutil.copyfile(record, PACKAGE / record.name)


def main(names: list[str]) -> None:
    if names == ["--ship"]:
        ship()
        return
    for name in names:
        print(json.dumps(train_row(row_of(name)), indent=2))
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
