"""How much accuracy does int8 lose on the Fashion-MNIST test set?

Goal: lose at most 0.5 points of top-1 accuracy, calibrated with 512 training images.

    python -m benchmarks.int8_accuracy            the networks that come with the package, and
                                                  one from each other family, trained first
    python -m benchmarks.int8_accuracy vgg11_bn   that network only

Networks without shipped weights are first trained for a few hundred steps with their family's
recipe. That is enough to measure the accuracy lost in int8, but not to reach their final
accuracy. Rows are saved one by one, so an interrupted run can be resumed.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import cnnarch
from benchmarks import zoo
from benchmarks.measure import RESULTS, keep
from benchmarks.zoo import DATA, ENLARGED, SHIPPED, ZooRow, recipe_of
from cnnarch.inference import optimize
from cnnarch.training import ImageData, build_model, fit, load_data

CALIBRATION, BATCH, STEPS = 512, 250, 200
MORE_STEPS = {"efficientnet_b0": 600}  # each batch changes its running statistics by 1%
ROWS = zoo.ROWS | {"densenet121": ZooRow("densenet121", ENLARGED)}
MIN_ACCURACY = 50  # percent; random guessing reaches 10
FILE = RESULTS / "int8_accuracy.json"
TRAINED = (
    "lenet5_bn",
    "alexnet_owt",
    "vgg11_bn",
    "googlenet_bn",
    "bn_inception",
    "resnet18",
    "densenet121",
    "se_resnet18",
    "mobilenet_v1",
    "efficientnet_b0",
    "efficientnet_lite0",
    "mixer_s32",
)
ENGINES = ("openvino", "inductor")


def steps(name: str) -> int:
    """Return the number of training steps for a network without shipped weights."""
    return MORE_STEPS.get(name, STEPS)


def trained(name: str) -> tuple[cnnarch.ImageClassifier, ImageData]:
    """Return a trained network and the images, preprocessed for it."""
    if name in SHIPPED:
        model = cnnarch.get_model(name, weights="FASHION_MNIST").eval()
        return model, load_data(DATA).adapt_to(model)
    recipe = replace(recipe_of(ROWS.get(name, ZooRow(name, {}))), num_steps=steps(name))
    data = load_data(DATA, image_resolution=recipe.image_resolution)
    model = build_model(name, data, recipe)
    data = data.adapt_to(model, recipe.image_resolution)
    few = torch.arange(min(len(data.train), steps(name) * recipe.batch_size))
    fit(model, data._replace(train=data.train.subset(few)), recipe)
    return model, data


def measure(name: str) -> dict[str, Any]:
    """Return the accuracies of the network and of each engine in int8, in percent."""
    model, data = trained(name)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))
    calibration = data.train.inputs(order[:CALIBRATION])
    example = data.test.inputs(torch.arange(BATCH))
    accuracies = {"float32": accuracy(torch.inference_mode()(model), data)}
    if accuracies["float32"] < MIN_ACCURACY:
        raise RuntimeError(f"{name} reaches only {accuracies['float32']:.1f} % in float32")
    refused = {}
    for engine in ENGINES:
        options: dict[str, Any] = {"backend": engine, "precision": "int8", "tolerance": 1.0}
        try:
            with optimize(model, example, calibration=calibration, **options) as fast:
                accuracies[engine] = accuracy(fast, data)
        except RuntimeError as error:  # the output was not correct
            refused[engine] = str(error)
    worst = min(accuracies[engine] for engine in ENGINES if engine in accuracies)
    lost = round(accuracies["float32"] - worst, 2)
    return {
        "steps": None if name in SHIPPED else steps(name),
        **accuracies,
        **refused,
        "points_lost": lost,
    }


def accuracy(run: Callable[[Tensor], Tensor], data: ImageData) -> float:
    right = 0
    for indices in torch.arange(len(data.test)).split(BATCH):
        classes = run(data.test.inputs(indices)).argmax(1)
        right += int((classes == data.test.labels[indices]).sum())
    return 100 * right / len(data.test)


def saved_rows() -> dict[str, Any]:
    """Return the measured rows by network."""
    return json.loads(FILE.read_text())["results"]["networks"] if FILE.exists() else {}


def main(names: list[str]) -> None:
    for name in names or [name for name in (*SHIPPED, *TRAINED) if name not in saved_rows()]:
        measured = measure(name)  # another process may add a row during this call
        rows = {**saved_rows(), name: measured}
        missed = [network for network, row in rows.items() if row["points_lost"] > 0.5]
        results = {"images": 10_000, "calibration": CALIBRATION, "networks": rows, "missed": missed}
        keep("int8_accuracy", "at most 0.5 points below float32", results)


if __name__ == "__main__":
    main(sys.argv[1:])
