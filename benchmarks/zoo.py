"""What accuracy do the networks reach on Fashion-MNIST, on a laptop CPU or on a GPU?

    python -m benchmarks.zoo lenet5      train a row, or resume it; a network without a row uses
                                         its family's recipe
    python -m benchmarks.zoo             print the table of the finished rows
    python -m benchmarks.zoo --ship      copy the small networks into the package (at most 8 MB)
    python -m benchmarks.zoo resnet20_cifar --device cuda --seeds 5
                                         train a row with a longer recipe and five seeds on a GPU
    python -m benchmarks.zoo lenet5 --tiny
                                         test this script: two epochs on a few images

The networks train on all 60,000 training images, without validation images, so no accuracy can
influence training. They are evaluated once on the 10,000 test images, after the last epoch. Each
row writes a JSON file to results/zoo when it is finished. On a GPU, each seed adds its result to
the row's file in results/zoo/gpu.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

import cnnarch
from benchmarks.measure import RESULTS, machine, versions, write
from cnnarch.training import Recipe, build_model, default_recipe, load_data, train
from cnnarch.training.machine import keep_freed_memory

DATA = "fashion_mnist"
RUNS = Path("runs/zoo")
FOLDER = RESULTS / "zoo"
PACKAGE = Path(cnnarch.__file__).parent / "weights" / DATA
SHIPPED = sorted(path.stem for path in PACKAGE.glob("*.safetensors"))
SMALL = 1_000_000  # parameters; smaller networks are shipped with the package


class ZooRow(NamedTuple):
    """A network of the zoo.

    Args:
        network: name of the builder.
        changes: settings that differ from the family's recipe for Fashion-MNIST.
        published: the architecture's accuracy in the data set's benchmark list.
        source: the entry in that benchmark list.
    """

    network: str
    changes: Mapping[str, Any]
    published: float | None = None
    source: str = ""


ENLARGED = {"model_options": {}, "image_resolution": 64}
"""Images of 64 x 64 pixels need less than half the multiply-adds of `small_images` at 32 x 32."""

ROWS = {
    row.network: row
    for row in (
        ZooRow("lenet5", {"num_epochs": 20}, 0.885, "LeNet of DL_image, 10 epochs"),
        ZooRow("convnet", {"num_epochs": 20}, 0.903, "3 conv + pooling + BN"),
        ZooRow("resnet20_cifar", {"num_epochs": 15}, 0.949, "ResNet-18, flips and more"),
        ZooRow("densenet_bc_40_12_cifar", {"num_epochs": 5}, 0.954, "DenseNet-BC, 768 K"),
        ZooRow(
            "vgg11_bn",  # a quarter of the channels; the first layers keep their strides
            {"num_epochs": 8, "learning_rate": 0.05, "model_options": {"width": 0.25}},
            0.935,
            "VGG16, 26 M",
        ),
        ZooRow("mobilenet_v1", {**ENLARGED, "num_epochs": 7}, 0.950, "MobileNet, flips"),
        ZooRow("googlenet_bn", {**ENLARGED, "num_epochs": 6}, 0.937, "GoogLeNet"),
        ZooRow("se_resnet18", {**ENLARGED, "num_epochs": 6}),
        ZooRow("nin_cifar", {"num_epochs": 5}),
        ZooRow("efficientnet_b0", {**ENLARGED, "num_epochs": 4, "precision": "32-true"}),
        ZooRow("alexnet_owt", {"num_epochs": 4}, 0.899, "AlexNet (triplet loss)"),
        ZooRow("mixer_s32", {"num_epochs": 4}),
    )
}


def row_of(network: str) -> ZooRow:
    """Return the row for a network, or a new row without changes."""
    return ROWS.get(network) or ZooRow(cnnarch.get_model_builder(network).__name__, {})


def recipe_of(row: ZooRow) -> Recipe:
    """Return the family's recipe with the row's changes and without validation images."""
    recipe = default_recipe(row.network, DATA)
    return replace(recipe, **{"validation": 0.0, **row.changes})


class Clock:
    """Print each epoch's metrics and add up the CPU time, even across restarts.

    On a busy machine, elapsed time is a poor measure of a row's cost.

    Args:
        path: file that stores the sum.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: float = json.loads(path.read_text()) if path.exists() else 0.0
        self.last = time.process_time()

    def __call__(self, metrics: Mapping[str, float]) -> None:
        now = time.process_time()
        self.seconds, self.last = self.seconds + now - self.last, now
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.seconds))
        print(json.dumps(metrics), flush=True)


def train_row(row: ZooRow) -> dict[str, Any]:
    """Train or resume a row and save its metrics."""
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
    assert results is not None  # there is only one process
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
    """Return the finished rows as a Markdown table."""
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
            accuracy = row["published"]
            published = "" if accuracy is None else f"{accuracy:.3f} ({row['published_as']})"
            lines.append(
                f"| {name} | {row['parameters']:,} | {row['image_resolution']} | {row['epochs']} "
                f"| {row['seed']} | {row['minutes']:.1f} | {row['cpu_minutes']:.1f} "
                f"| {row['accuracy']:.4f} | {published} |"
            )
    return "\n".join(lines)


def ship() -> None:
    """Copy the weights and metrics of the small networks into the package."""
    PACKAGE.mkdir(exist_ok=True)
    for record in FOLDER.glob("*.json"):
        weights = RUNS / record.stem / "model.safetensors"
        if weights.exists() and json.loads(record.read_text())["parameters"] < SMALL:
            shutil.copyfile(weights, PACKAGE / f"{record.stem}.safetensors")
            shutil.copyfile(record, PACKAGE / record.name)


def train_on_gpu(rows: Sequence[ZooRow], given: argparse.Namespace) -> None:
    """Train each row with each seed, and print the table."""
    from benchmarks import gpu_zoo  # deferred: it imports this module
    from benchmarks.gpu_setup import Setup

    folder = given.output or (Path("runs/tiny") if given.tiny else RESULTS)
    setup = Setup(given.device, given.tiny, folder)
    for row in rows:
        for seed in range(given.seeds or gpu_zoo.SEEDS):
            result = gpu_zoo.train_seed(row.network, seed, setup, progress=True)
            print(row.network, seed, json.dumps(result), flush=True)
    print(gpu_zoo.table(gpu_zoo.results_folder(setup)))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("networks", nargs="*", help="names of networks")
    parser.add_argument("--ship", action="store_true", help="copy small networks to the package")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, help="number of seeds on a GPU; default: 5")
    parser.add_argument("--tiny", action="store_true", help="test this script on a few images")
    parser.add_argument("--output", type=Path, help="folder for zoo/gpu; default: results")
    given = parser.parse_args(arguments)
    is_long = given.device == "cuda" or given.tiny
    if given.seeds is not None and given.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {given.seeds}")
    if not is_long and (given.seeds is not None or given.output is not None):
        parser.error("--seeds and --output require --device cuda or --tiny")
    if given.ship and (is_long or given.networks):
        parser.error("--ship copies the finished rows for a CPU; use it without other arguments")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny tests this script on a CPU")
    return given


def main(arguments: Sequence[str]) -> None:
    given = parse(arguments)
    rows = [row_of(name) for name in given.networks]
    if given.ship:
        ship()
    elif given.device == "cuda" or given.tiny:
        train_on_gpu(rows, given)
    else:
        keep_freed_memory()  # as in `cnnarch train`
        for row in rows:
            print(json.dumps(train_row(row), indent=2))
        print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
