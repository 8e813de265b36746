"""The folder of a finished training run: what a model card shows of it."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnarch.folders import RUN_FILE
from cnnarch.weights.config import TENSORS
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.reading import read_tensors

RESULTS = "results.json"
"""The file that a run writes last, which marks it as finished."""


class Picture(NamedTuple):
    """A plot of a run, in a PNG file of the same name.

    Args:
        title: its heading.
        alt: a description of what it shows, for readers who cannot see it.
    """

    title: str
    alt: str


PICTURES = {
    "curves": Picture(
        "Loss and accuracy", "Line plots of the loss and the accuracy after each epoch"
    ),
    "predictions": Picture(
        "Predictions on test images",
        "Grid of test images, each with the predicted class and its probability",
    ),
    "confusion": Picture(
        "Confusion matrix", "Matrix of test images by true class (rows) and prediction (columns)"
    ),
    "embeddings": Picture(
        "Embedding of test images",
        "Scatter plot of the test images' features in two dimensions, colored by class",
    ),
    "gradcam": Picture(
        "Grad-CAM", "Test images above heat maps of the regions that the prediction depends on"
    ),
    "integrated_gradients": Picture(
        "Integrated gradients",
        "Test images above heat maps of the pixels that the prediction depends on",
    ),
    "feature_maps": Picture(
        "Feature maps", "A test image and some channels of each stage's output for it"
    ),
    "filters": Picture("Filters of the first layer", "Grid of the first layer's filters"),
    "data": Picture("Training images", "Grid of training images with their classes"),
    "diagram": Picture(
        "Architecture",
        "Diagram of the stages with their output shapes, parameters and multiply-adds",
    ),
}
"""The plots of a run by name, in the order in which reports and model cards show them."""


class Run(NamedTuple):
    """A finished training run.

    Args:
        results: the contents of results.json.
        recipe: the contents of recipe.yaml.
        pictures: the PNG files, keyed by their names in `PICTURES`.
    """

    results: Mapping[str, Any]
    recipe: Mapping[str, Any]
    pictures: Mapping[str, Path]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read the folder of a finished training run.

    Raises:
        WeightsError: the folder does not exist, is not a training run's, or the run is unfinished.
    """
    import yaml

    path = Path(folder).expanduser()
    if not path.is_dir():
        raise WeightsError(f"run={str(path)!r} is not a folder")
    if not (path / RUN_FILE).is_file():
        raise WeightsError(f"{path} is not the folder of a training run: it has no {RUN_FILE}")
    if not (path / RESULTS).is_file():
        raise WeightsError(
            f"the training run in {path} is not finished: it has no {RESULTS}; resume it first"
        )
    try:
        results = dict(json.loads((path / RESULTS).read_text("utf-8")))
        _check_results(results)
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path / RESULTS} does not contain the results of a run: {error!r}"
        ) from error
    try:
        recipe = dict(yaml.safe_load((path / RUN_FILE).read_text("utf-8")))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise WeightsError(f"{path / RUN_FILE} is corrupted: {error}") from error
    found = {name: path / f"{name}.png" for name in PICTURES}
    return Run(results, recipe, {name: file for name, file in found.items() if file.is_file()})


def _check_results(results: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError unless all values that a card shows are there."""
    float(results["test"]["top1"]), float(results["test"]["loss"]), str(results["data"])
    for name in ("train_images", "test_images", "seed", "epochs"):
        int(results[name])


def check_is_network_of(folder: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Check that a run saved exactly these tensors, so that its results are the network's.

    Raises:
        WeightsError: the run saved no network, or other tensors.
    """
    path = Path(folder).expanduser() / TENSORS
    theirs, _ = read_tensors(path, mapped=True)
    same = theirs.keys() == tensors.keys() and all(
        theirs[name].dtype == tensor.dtype and torch.equal(theirs[name], tensor)
        for name, tensor in tensors.items()
    )
    if not same:
        raise WeightsError(
            f"the network's weights differ from those in {path}, so the run's results are not "
            f"those of this network: save cnnarch.from_pretrained({str(path.parent)!r}), or omit "
            "`run`"
        )
