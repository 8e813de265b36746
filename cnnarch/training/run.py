"""Train a network, evaluate it, and save everything about the run in a single folder."""

import json
import logging
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.loggers.logger import Logger

from cnnarch._version import __version__
from cnnarch.analysis import count_parameters
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.folders import RUN_FILE, RUNS
from cnnarch.registry import get_model
from cnnarch.training.checks import check_run, check_types
from cnnarch.training.data import ImageData
from cnnarch.training.datasets import folder_of
from cnnarch.training.engine import fit
from cnnarch.training.evaluation import Evaluation, evaluate
from cnnarch.training.history import History
from cnnarch.training.machine import (
    THIS_MACHINE,
    Machine,
    cpu_name,
    is_first_process,
    leave_process_group,
)
from cnnarch.training.recipe import Recipe
from cnnarch.training.recipes import default_recipe, with_weights
from cnnarch.training.record import FILES, check_record, read_record
from cnnarch.training.report import draw_pictures, write_report
from cnnarch.training.signals import TrainingStopped
from cnnarch.weights.files import atomic_write
from cnnarch.weights.rebuilding import check_rebuilds, chosen_options
from cnnarch.weights.runs import PICTURES, RESULTS, Run
from cnnarch.weights.saving import write_card

log = logging.getLogger("cnnarch")

RECIPE, CHECKPOINTS = RUN_FILE, "checkpoints"
HISTORY, REPORT = "metrics.csv", "report.html"
SAVED = ("model.safetensors", "config.json", "README.md")  # written by `save_pretrained`
RUN_FILES = {RECIPE, RESULTS, CHECKPOINTS, FILES, HISTORY, REPORT, *SAVED}
RUN_FILES |= {f"{name}.png" for name in PICTURES}
SET_BY_DATA = ("num_classes", "in_channels")  # network options determined by the data


def build_model(
    name: str,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    weights: str | PathLike[str] | None = None,
) -> ImageClassifier:
    """Build a network for a data set and a recipe, initialized with the recipe's seed.

    Args:
        name: name of the network's builder.
        data: determines the numbers of classes and channels.
        recipe: only `model_options`, `weights`, `init` and `seed` are used. None uses the default
            recipe for the network, the data and the weights.
        weights: initial weights; None uses the recipe's.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: the network does not exist or does not accept one of the options.

    >>> from cnnarch.training import load_data
    >>> build_model("lenet5", load_data("digits"), Recipe(init="kaiming")).num_classes
    10
    """
    check_types(data=data, recipe=recipe)
    recipe = recipe or default_recipe(name, data.name, weights)
    recipe = recipe if weights is None else replace(recipe, weights=os.fspath(weights))
    sizes = {"num_classes": len(data.classes), "in_channels": data.channels}
    torch.manual_seed(recipe.seed)
    try:
        model = get_model(name, weights=recipe.weights, **sizes, **recipe.model_options)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if recipe.init and recipe.weights is None:  # `init` would overwrite loaded weights
        init_weights(model, recipe.init)
    return model


def train(
    model: ImageClassifier,
    data: ImageData,
    recipe: Recipe | None = None,
    folder: str | PathLike[str] | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    machine: Machine = THIS_MACHINE,
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    on_epoch_end: Callable[[Mapping[str, float]], None] | None = None,
) -> dict[str, Any] | None:
    """Train a network, evaluate it on the test images, and save everything in a folder.

    Args:
        model: a network from a builder, with the same classes and channels as `data`.
        data: the data set. Pretrained weights determine the mean, standard deviation and
            interpolation, and the input size if neither `load_data` nor the recipe does.
        recipe: the training recipe; None uses the default for the network and the data, which is
            the recipe for transfer learning if the network has pretrained weights.
        folder: run folder for recipe.yaml and files.csv (written at the start), metrics.csv and
            checkpoints (after each epoch), and model.safetensors, config.json, README.md, pictures,
            report.html and results.json (at the end); None means runs/NETWORK-DATA.
        resume: whether to resume the run in `folder`, if there is one. Its images must be the same,
            but may have moved.
        overwrite: whether to first delete any existing run in `folder`.
        machine: the devices to train on.
        loggers: Lightning loggers, in addition to metrics.csv.
        progress: whether to show a progress bar.
        on_epoch_end: called with the metrics of each epoch.

    Returns:
        The contents of results.json, or None in every process except the first.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: both `resume` and `overwrite` are set, the folder contains a different run or
            other files, the network is incompatible with the data or cannot be saved, or the
            devices are not available. The folder is left unchanged.
        NonFiniteLossError: the loss became infinite or NaN.
    """
    check_types(model=model, data=data, recipe=recipe, machine=machine)
    recipe = _complete(recipe, model, data)  # all checks run before the folder is changed
    data = data.matched_to(model, recipe.image_resolution)
    check_run(model, data, recipe, machine)
    place = Path(folder or default_folder(str(model.builder), data.name))
    is_new = not place.exists()
    if overwrite:
        _overwrite(place, resume)
    if finished := _open_run(place, model, data, recipe, resume):
        return finished
    try:
        history = fit(
            model,
            data,
            recipe,
            output=place,
            resume=resume,
            machine=machine,
            loggers=loggers,
            progress=progress,
            on_epoch_end=on_epoch_end,
        )
    except BaseException as error:  # includes KeyboardInterrupt and Lightning's SystemExit
        if is_first_process():
            _remove_empty_run(place, is_new)
        if isinstance(error, TrainingStopped) and not leave_process_group():
            return None  # if this process failed, Lightning would kill the first process
        raise
    if not leave_process_group():
        return None
    model.preprocessing, model.categories = data.preprocessing, data.classes
    model.save_pretrained(place)
    metrics = evaluate(model, data.test, machine=machine._replace(devices=1, num_nodes=1))
    results = _results(model, data, recipe, history, metrics)
    names = draw_pictures(model, data, history, metrics, place)
    _write_pages(model, place, results, names)
    _write(place / RESULTS, json.dumps(results, indent=2))  # last: this file marks runs as finished
    shutil.rmtree(place / CHECKPOINTS)
    return results


def _write_pages(
    model: ImageClassifier, place: Path, results: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Write the report and the model card, which show the plots with these names."""
    recipe = (place / RECIPE).read_text()
    pictures = {name: place / f"{name}.png" for name in names}
    write_report(place / REPORT, results, recipe, pictures)
    write_card(model, place, Run(results, yaml.safe_load(recipe), pictures))


def _complete(recipe: Recipe | None, model: ImageClassifier, data: ImageData) -> Recipe:
    """Return the recipe, or the default one, with the source of the network's weights.

    Raises:
        ValueError: the network cannot be saved.
    """
    check_rebuilds(model)
    recipe = recipe or default_recipe(str(model.builder), data.name, model.weights_source)
    return with_weights(recipe, model)


def default_folder(networks: str, data: str) -> Path:
    """Return the default run folder; `data` may be folder:PATH."""
    suffix = re.sub(r"\W+", "-", data).strip("-")
    return Path(RUNS, f"{networks}-{suffix}")


def read_results(folder: str | PathLike[str]) -> dict[str, Any]:
    """Read a finished run's results.json; return an empty dict if there is none.

    Raises:
        ValueError: the file does not contain the results of a run.
    """
    path = Path(folder) / RESULTS
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not contain the results of a run: {error}") from error


def _description(model: ImageClassifier, data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """Return the contents of recipe.yaml: the network, the data and every key of the recipe."""
    chosen = chosen_options(str(model.builder), model.options)
    options = {k: v for k, v in chosen.items() if k not in SET_BY_DATA}
    return {
        "model": model.builder,
        "data": data.name,
        **asdict(recipe),
        "model_options": options,
        "image_resolution": data.preprocessing.crop_size,
        "grayscale": data.channels == 1,
    }


def _open_run(
    folder: Path, model: ImageClassifier, data: ImageData, recipe: Recipe, resume: bool
) -> dict[str, Any] | None:
    """Create the folder or check that it contains the same run; return its results if finished."""
    if not is_first_process():
        return (resume and read_results(folder)) or None
    if (folder / RECIPE).exists():
        if not resume:
            raise ValueError(
                f"{folder} contains a run: resume it, overwrite it, or choose another folder"
            )
        _check_same_run(folder, _description(model, data, recipe))
        if results := read_results(folder):
            check_record(folder, data, recipe)
        elif not any((folder / CHECKPOINTS).glob("*.ckpt")):
            log.warning("the run in %s has no checkpoint; it starts from the beginning", folder)
        return results or None
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose an empty or new folder")
    if folder.exists() and any(not _is_partial(path) for path in folder.iterdir()):
        raise ValueError(f"{folder} contains other files; choose an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    description = _description(model, data, recipe)
    _write(folder / RECIPE, yaml.safe_dump(description, sort_keys=False, width=100))
    return None


def _check_same_run(folder: Path, description: dict[str, Any]) -> None:
    """Check that a folder's recipe.yaml describes the same run; folders of data may have moved."""
    recipe = folder / RECIPE
    try:
        written = dict(yaml.safe_load(recipe.read_text()))
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ValueError(f"{recipe} is corrupted: {error}") from error
    old = {**asdict(Recipe()), **written}  # the run may predate some keys
    may_differ = {"source"}  # a citation
    if folder_of(str(description["data"])) and folder_of(str(old.get("data"))):
        may_differ |= {"data"} if read_record(folder) else set()  # contents are compared instead
    for key, value in description.items():
        if key not in may_differ and old.get(key) != value:
            found = f"{key}={old.get(key)!r}"
            raise ValueError(f"{folder} contains a run with {found}, not {value!r}")


def _is_partial(path: Path) -> bool:
    """Return whether this file was left behind by a process killed during `atomic_write`."""
    return path.name.startswith(".") and path.suffix == ".part"


def _foreign_files(folder: Path) -> list[str]:
    paths = [path for path in folder.iterdir() if not _is_partial(path)]
    return sorted(path.name for path in paths if path.name not in RUN_FILES)


def _remove_empty_run(folder: Path, is_new: bool) -> None:
    """Remove a run that saved nothing, so that the same command can start it again."""
    has_saved = (folder / HISTORY).exists() or any((folder / CHECKPOINTS).glob("*.ckpt"))
    if not has_saved and not _foreign_files(folder):
        _remove_run(folder)
        if is_new:
            folder.rmdir()


def _overwrite(folder: Path, resume: bool) -> None:
    if resume:
        raise ValueError("resume or overwrite the run in the folder, not both")
    if is_first_process():
        _remove_run(folder)


def _remove_run(folder: Path) -> None:
    """Remove the run in a folder but not the folder itself, which may be the working directory.

    Raises:
        ValueError: the folder contains other files.
    """
    if not (folder / RECIPE).exists():
        return
    if foreign := _foreign_files(folder):
        raise ValueError(f"{folder} contains a file that does not belong to the run: {foreign[0]}")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _results(
    model: ImageClassifier,
    data: ImageData,
    recipe: Recipe,
    history: History,
    metrics: Evaluation,
) -> dict[str, Any]:
    folder = folder_of(data.name)
    return {
        "model": model.builder,
        "options": model.options,
        "parameters": count_parameters(model),
        "data": data.name,
        "data_folder": folder and str(folder.resolve()),  # `data` may be a relative path
        "train_images": len(data.train),
        "test_images": len(data.test),
        "test": metrics.figures(),
        "epochs": len(history.rows),
        "training": history.setup,
        "minutes": sum(history["seconds"]) / 60,
        "seed": recipe.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "cnnarch": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text)
