"""How much do ImageNet weights help with few images? EfficientNet-Lite0 on real data, offline.

    python -m benchmarks.transfer                             run or resume all rows
    python -m benchmarks.transfer fashion_mnist-1000-probe-0  run one row
    python -m benchmarks.transfer --table                     print the table of the finished rows

Fashion-MNIST: 1,000 or 5,000 of the training images, and the first 5,000 test images. Digits: 1,000
of scikit-learn's 1,797 images, tested on the other 797. Each seed selects different training
images, the same ones for all methods:

    pixels   logistic regression on the pixels, without a network
    probe    logistic regression on pooled features of the pretrained network
    frozen   the stages up to the sixth are frozen; the last two and the head are trained
    full     the whole pretrained network is trained
    scratch  the whole network is trained from random weights

In "frozen" and "full", the new classifier is initialized with a linear probe on its input. Random
initialization would distort the features in the first steps (Kumar et al., "Fine-Tuning can Distort
Pretrained Features and Underperform Out-of-Distribution", arXiv 2202.10054).

Each row is evaluated on the test images only once, at the end. The settings were chosen on
Fashion-MNIST training images, and each regression's regularization on a fifth of the row's own
training images. Each row writes a JSON file to results/transfer. `python -m benchmarks.tables`
writes the table to docs/transfer.md.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import cnnarch
from benchmarks.measure import RESULTS, machine, versions, write
from cnnarch.training import ImageData, ImageSet, Recipe, load_data
from cnnarch.training.augmentation import Augmentation
from cnnarch.training.machine import keep_freed_memory

FOLDER = RESULTS / "transfer"
NETWORK, WEIGHTS = "efficientnet_lite0", "IMAGENET1K_V1"
TEST_IMAGES = 5_000  # the first images of Fashion-MNIST's test set
TASKS = (("fashion_mnist", 1_000), ("fashion_mnist", 5_000), ("digits", 1_000))
SEEDS = {"pixels": 3, "probe": 3, "frozen": 3, "full": 2, "scratch": 2}
LABELS = {
    "pixels": "regression on pixels",
    "probe": "linear probe",
    "frozen": "frozen up to stage6, new head",
    "full": "full fine-tuning",
    "scratch": "from scratch",
}

PROBE_RESOLUTION = {"fashion_mnist": 112, "digits": 64}
PROBE_STAGES = ("stage5", "stage6", "stage7", "stage8")
STRENGTHS = (1e-3, 1e-2, 1e-1)  # values of C for the logistic regression

RESOLUTION = {"fashion_mnist": 96, "digits": 64}
BATCH = 32
WEIGHT_DECAY = 0.05
DROP_PATH = 0.0  # training is too short to need regularization
FROZEN = "stage6"
EPOCHS = {1_000: 15, 5_000: 6}
CHANGES: dict[str, dict[str, Any]] = {  # augmentation that preserves the classes
    "fashion_mnist": {"crop_padding": 2, "flip": True},
    "digits": {"crop_padding": 1},
}


class Settings(NamedTuple):
    """Settings that differ between the methods."""

    learning_rate: float
    layer_decay: float = 1.0


SETTINGS = {
    "frozen": Settings(1e-3, layer_decay=0.7),
    "full": Settings(1e-3, layer_decay=0.7),
    "scratch": Settings(2e-3),
}


class TableRow(NamedTuple):
    """A row of the table."""

    data: str
    images: int
    way: str
    seed: int

    @property
    def name(self) -> str:
        return "-".join(map(str, self))

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.json"


ROWS = {
    row.name: row
    for row in (
        TableRow(data, images, way, seed)
        for data, images in TASKS
        for way, seeds in SEEDS.items()
        for seed in range(seeds)
    )
}


def draw(row: TableRow) -> ImageData:
    """Return the training and test images of a row; gray images get three equal channels."""
    data = load_data(row.data, grayscale=False)
    train, test = data.train, data.test
    generator = torch.Generator().manual_seed(row.seed)
    if row.data == "digits":
        pixels, labels = (
            torch.cat(pair) for pair in zip(tensors(train), tensors(test), strict=True)
        )
        every = ImageSet(pixels, labels, data.classes, data.preprocessing)
        order = torch.randperm(len(every), generator=generator)
        return ImageData(
            row.data, every.subset(order[: row.images]), every.subset(order[row.images :])
        )
    order = torch.randperm(len(train), generator=generator)
    test = test.subset(torch.arange(TEST_IMAGES))
    return ImageData(row.data, train.subset(order[: row.images]), test)


def tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    assert isinstance(images.pixels, Tensor)  # these data sets are in memory
    return images.pixels, images.labels


def batches(images: ImageSet, flip: bool = False) -> Iterator[Tensor]:
    """Yield the network's input in batches of 50 images."""
    for part in torch.split(torch.arange(len(images)), 50):
        inputs = images.inputs(part)
        inputs = inputs.flip(-1) if flip else inputs
        yield inputs.contiguous(memory_format=torch.channels_last)


def results_of(
    function: Callable[[Tensor], Tensor], images: ImageSet, flip: bool = False
) -> Tensor:
    """Apply a function of the network's input to all images."""
    with torch.inference_mode():
        return torch.cat([function(x) for x in batches(images, flip)])


def by_pixels(row: TableRow, data: ImageData) -> float:
    """Return the accuracy of a logistic regression on the pixels."""
    train, test = (tensors(images)[0].flatten(1).numpy() / 255 for images in data[1:])
    return score(train, data.train.labels, test, data.test.labels, row.seed)


def by_probe(row: TableRow, data: ImageData) -> float:
    """Return the accuracy of a logistic regression on pooled features."""
    backbone = cnnarch.get_backbone(NETWORK, weights=WEIGHTS, stages=PROBE_STAGES).eval()
    backbone.to(memory_format=torch.channels_last)
    data = data.adapt_to(backbone, PROBE_RESOLUTION[row.data])

    def features(x: Tensor) -> Tensor:
        return torch.cat([m.mean((2, 3)) for m in backbone(x).values()], 1)

    flips = (False, True) if CHANGES[row.data].get("flip") else (False,)
    train, test = (
        np.mean([results_of(features, images, flip).numpy() for flip in flips], axis=0)
        for images in data[1:]
    )
    return score(train, data.train.labels, test, data.test.labels, row.seed)


def score(
    train: np.ndarray, labels: Tensor, test: np.ndarray, test_labels: Tensor, seed: int
) -> float:
    """Return the test accuracy of a logistic regression."""
    return float(regression(train, labels, seed).score(test, test_labels.numpy()))


def regression(train: np.ndarray, labels: Tensor, seed: int) -> Pipeline:
    """Fit a logistic regression; its regularization is chosen on a fifth of the training images."""
    steps = [("scale", StandardScaler()), ("regression", LogisticRegression(max_iter=500))]
    held_back = ShuffleSplit(1, test_size=0.2, random_state=seed)
    search = GridSearchCV(Pipeline(steps), {"regression__C": STRENGTHS}, cv=held_back)
    search.fit(train, labels.numpy())
    best: Pipeline = search.best_estimator_
    return best


def by_training(row: TableRow, data: ImageData) -> float:
    """Return the accuracy of the network after training with a new classifier."""
    torch.manual_seed(row.seed)
    settings = SETTINGS[row.way]
    weights = None if row.way == "scratch" else WEIGHTS
    options = {"num_classes": len(data.classes), "drop_path": DROP_PATH}
    model = cnnarch.get_model(NETWORK, weights=weights, **options)
    data = data.adapt_to(model, RESOLUTION[row.data])
    model.to(memory_format=torch.channels_last)
    if row.way == "scratch":
        shorten_running_averages(model)
    else:  # there are too few steps to update BatchNorm's statistics
        cnnarch.convert_norm(model, "frozen")
        initialize_as_probe(model.eval(), data.train, row.seed)
    if row.way == "frozen":
        cnnarch.freeze(model, upto=FROZEN)
    groups = cnnarch.param_groups(model, settings.learning_rate, WEIGHT_DECAY, settings.layer_decay)
    train(model.train(), groups, data, row)
    right = results_of(model.eval(), data.test).argmax(1) == data.test.labels
    return right.float().mean().item()


def initialize_as_probe(model: cnnarch.ImageClassifier, images: ImageSet, seed: int) -> None:
    """Initialize the classifier with a logistic regression on its input."""

    def pre_logits(x: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(x), pre_logits=True)

    scale, fitted = regression(results_of(pre_logits, images).numpy(), images.labels, seed)
    weight = fitted.coef_ / scale.scale_
    values = {"weight": weight, "bias": fitted.intercept_ - weight @ scale.mean_}
    model.head.classifier.load_state_dict({k: torch.tensor(v) for k, v in values.items()})


def shorten_running_averages(model: nn.Module) -> None:
    """Set BatchNorm's momentum to 0.1; the authors' value is for longer training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def train(model: nn.Module, groups: list[dict[str, Any]], data: ImageData, row: TableRow) -> None:
    """Train with AdamW and a one-cycle schedule, shuffling the images in each epoch."""
    pixels, labels = tensors(data.train)
    epochs, generator = EPOCHS[row.images], torch.Generator().manual_seed(row.seed)
    optimizer = torch.optim.AdamW(groups)
    steps = len(labels) // BATCH
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, epochs * steps)
    augmentation = Augmentation(Recipe(**CHANGES[row.data]), len(data.classes))
    for step in range(epochs * steps):
        if step % steps == 0:
            order = torch.randperm(len(labels), generator=generator).split(BATCH)
        batch = order[step % steps]
        images = data.train.prepare(augmentation.pixels(pixels[batch], 10**6 * row.seed + step))
        logits = model(images.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels[batch]).backward()
        optimizer.step()
        schedule.step()


WAYS = {"pixels": by_pixels, "probe": by_probe}


def measure(row: TableRow) -> dict[str, Any]:
    """Run a row and save its metrics."""
    data = draw(row)
    start, work = time.perf_counter(), time.process_time()
    accuracy = WAYS.get(row.way, by_training)(row, data)
    record = {
        **row._asdict(),
        "test_images": len(data.test),
        "accuracy": accuracy,
        "minutes": (time.perf_counter() - start) / 60,
        "core_minutes": (time.process_time() - work) / 60,  # CPU time of all threads
        "settings": settings(row),
        "command": f"python -m benchmarks.transfer {row.name}",
        "date": time.strftime("%Y-%m-%d"),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
    }
    write(row.path, record)
    return record


def settings(row: TableRow) -> dict[str, Any]:
    """Return the settings needed to reproduce a row."""
    if row.way == "pixels":
        return {"C": STRENGTHS}
    if row.way == "probe":
        size = PROBE_RESOLUTION[row.data]
        return {"image_resolution": size, "stages": PROBE_STAGES, "C": STRENGTHS}
    return {
        "image_resolution": RESOLUTION[row.data],
        "epochs": EPOCHS[row.images],
        "batch_size": BATCH,
        "weight_decay": WEIGHT_DECAY,
        "drop_path": DROP_PATH,
        **({"frozen": FROZEN} if row.way == "frozen" else {}),
        **SETTINGS[row.way]._asdict(),
        **CHANGES[row.data],
    }


def table() -> str:
    """Return the finished rows as a Markdown table with the mean over the seeds."""
    lines = [
        "| data | images | method | accuracy | each seed | minutes | core minutes |",
        "|---|--:|---|--:|---|--:|--:|",
    ]
    for data, images in TASKS:
        for way, label in LABELS.items():
            wanted = (data, images, way)
            paths = [row.path for row in ROWS.values() if row[:3] == wanted]
            done = [json.loads(path.read_text()) for path in paths if path.exists()]
            if done:
                each = [record["accuracy"] for record in done]
                minutes, work = (mean(r[k] for r in done) for k in ("minutes", "core_minutes"))
                lines.append(
                    f"| {data} | {images:,} | {label} | {mean(each):.3f} "
                    f"| {', '.join(f'{a:.3f}' for a in each)} | {minutes:.1f} | {work:.1f} |"
                )
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    names = [a for a in arguments if a != "--table"]
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}; the rows are {', '.join(ROWS)}")
    if not arguments:
        names = [name for name, row in ROWS.items() if not row.path.exists()]
    keep_freed_memory()
    for name in names:
        record = measure(ROWS[name])
        print(f"{name}: {record['accuracy']:.4f}, {record['minutes']:.1f} minutes", flush=True)
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
