"""The `draw` command: draw a figure of a network or a data set."""

import argparse
import logging
from collections.abc import Callable, Sequence
from inspect import signature
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cnnarch
from cnnarch.cli.models import load_model, load_test_data, reject_flags
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import aliases

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = (
    "data_grid",
    "predictions",
    "confusion_matrix",
    "embeddings",
    "gradcam",
    "integrated_gradients",
    "feature_maps",
    "filters",
    "diagram",
)
"""The `cnnarch.viz` functions that draw a network or its data."""

WITHOUT_IMAGES = ("confusion_matrix", "filters", "diagram")
"""The figures that cannot show photographs."""

log = logging.getLogger("cnnarch")

OPTIONS = ("rows", "columns", "layer", "layers", "method", "num_samples")


def run_draw(parsed: argparse.Namespace) -> int:
    """Write a figure to a file."""
    from cnnarch import viz

    name = parsed.picture
    draw: Callable[..., Figure] = getattr(viz, name)
    allowed = signature(draw).parameters
    options = {key: value for key in OPTIONS if (value := getattr(parsed, key)) is not None}
    for key in options:
        if key not in allowed:
            flags = ", ".join(_flag(option) for option in OPTIONS if option in allowed)
            raise ValueError(
                f"{name} does not accept {_flag(key)}; it accepts {flags or 'no options'}"
            )
    file = Path(parsed.output or f"{name}.png")
    if not file.parent.is_dir():
        raise ValueError(f"cannot write {file}: folder {file.parent} does not exist")
    arguments = _photographs(name, parsed) if parsed.files else _arguments(name, parsed)
    draw(*arguments, **options).savefig(file)
    print(file)
    return 0


def _photographs(name: str, parsed: argparse.Namespace) -> tuple[Any, ...]:
    """Return the network and the files shown in a figure."""
    if name in WITHOUT_IMAGES:
        raise ValueError(f"{name} shows no images, got {parsed.files[0]}")
    if parsed.data or parsed.split:
        raise ValueError("specify either image files, or a data set with --data and --split")
    reject_flags(parsed, "image files are not looked up in a folder of data sets", "data_root")
    files = _readable(parsed.files) if parsed.skip_unreadable else parsed.files
    if name == "data_grid":
        reject_flags(parsed, "data_grid shows image files without a network", "model", "weights")
        return (files,)
    return load_model(parsed), files


def _readable(files: Sequence[str]) -> list[Path]:
    """Return the images in files and folders that can be read, and log the others."""
    from cnnarch.images import find_images, find_unreadable

    paths = find_images(files)
    unreadable = find_unreadable(paths, 3)
    for file in unreadable:
        log.warning("skipped: %s", file.reason)
    skipped = {file.name for file in unreadable}
    if found := [path for path in paths if fspath(path) not in skipped]:
        return found
    raise ValueError(f"none of the {len(paths)} images can be read")


def _arguments(name: str, parsed: argparse.Namespace) -> tuple[Any, ...]:
    """Return the network, data or counts shown in a figure."""
    from cnnarch.training import evaluate, load_data

    if name in ("diagram", "filters"):
        flags = ("data", "data_root", "split", "skip_unreadable")
        reject_flags(parsed, f"{name} shows no images", *flags)
    if name == "diagram":
        reject_flags(parsed, "diagram shows no weights", "weights")
        return (_without_weights(parsed),)
    if name == "data_grid" and not parsed.model:
        if not parsed.data:
            raise ValueError("specify a data set with --data or a run folder with --model")
        reject_flags(parsed, "there is no --model", "weights")
        options = {"root": parsed.data_root, "skip_unreadable": parsed.skip_unreadable}
        return (getattr(load_data(parsed.data, **options), parsed.split or "test"),)
    model = load_model(parsed)
    if name == "filters":
        return (model,)
    images = load_test_data(model, parsed, parsed.split or "test")
    if name == "confusion_matrix":
        return evaluate(model, images).confusion, images.classes
    return (images,) if name == "data_grid" else (model, images)


def _without_weights(parsed: argparse.Namespace) -> "cnnarch.ImageClassifier":
    """Return a network for a figure that shows no weights, without downloading a checkpoint."""
    name = aliases().get(parsed.model, parsed.model)
    return cnnarch.get_model(name) if name in BUILDERS else load_model(parsed)


def _flag(option: str) -> str:
    return f"--{option}"
