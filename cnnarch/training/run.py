"""A run: train, measure, and keep in one folder whatever came of it."""

import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger

from cnnarch._version import __version__
from cnnarch.analysis import count_parameters
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.registry import get_model
from cnnarch.training.callbacks import TrainingStopped
from cnnarch.training.data import ImageData
from cnnarch.training.datasets import named_folder
from cnnarch.training.engine import HERE, Evaluation, check_fits, evaluate, fit
from cnnarch.training.history import History
from cnnarch.training.machine import Machine, first_of_group, is_first_process
from cnnarch.training.recipe import Recipe
from cnnarch.training.report import TITLES, draw_pictures, write_report
from cnnarch.training.stage import check_freezing
from cnnarch.weights.rebuilding import check_rebuilds, chosen_options

__all__ = ["build_model", "read_results", "train"]

RECIPE, RESULTS, CHECKPOINTS = "recipe.yaml", "results.json", "checkpoints"
HISTORY, REPORT = "metrics.csv", "report.html"
SAVED = ("model.safetensors", "config.json", "README.md")  # by `save_pretrained`
SET_BY_DATA = ("num_classes", "in_channels")  # options of the network that the data decide


def build_model(name: str, data: ImageData, recipe: Recipe) -> ImageClassifier:
    """The network as the data and the recipe want it, its weights drawn from the recipe's seed.

    Args:
        name: of its builder.
        data: sets the number of classes and channels.
        recipe: `model_options`, `weights`, `init` and `seed` are what is read of it.

    Raises:
        ValueError: there is no such network, or it has no such option.

    >>> from cnnarch.training import load_data
    >>> build_model("lenet5", load_data("digits"), Recipe(init="kaiming")).num_classes
    10
    """
    sizes = {"num_classes": len(data.classes), "in_channels": data.channels}
    torch.manual_seed(recipe.seed)
    try:
        model = get_model(name, weights=recipe.weights, **sizes, **recipe.model_options)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if recipe.init and recipe.weights is None:  # or nothing would be left of them
        init_weights(model, recipe.init)
    return model


def train(
    model: ImageClassifier,
    data: ImageData,
    recipe: Recipe,
    folder: str | PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    machine: Machine = HERE,
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    tell: Callable[[Mapping[str, float]], None] | None = None,
) -> dict[str, Any] | None:
    """Train a network, measure it on the test images, and keep everything in a folder.

    Args:
        model: made by a builder, for `data`'s classes and channels.
        data: what to learn.
        recipe: how.
        folder: gets recipe.yaml at once, metrics.csv and checkpoints after each epoch, and in
            the end model.safetensors, config.json, pictures, report.html and results.json.
        resume: whether to go on with the same run in `folder`, if there is one.
        overwrite: whether to remove the run in `folder` first, if there is one.
        machine: where to compute.
        loggers: any of Lightning's, besides metrics.csv.
        progress: whether to show a bar.
        tell: called with the figures of each epoch.

    Returns:
        what results.json holds; None in all processes but the first.

    Raises:
        ValueError: the folder holds another run or other files, the network does not fit the
            data or could not be saved after training, or the machine is not as `machine` says.
            The folder is then as it was.
        NonFiniteLossError: the loss became infinite or not a number.
    """
    check_fits(model, data.train)  # before there is a folder
    check_rebuilds(model)
    check_freezing(model, recipe)
    machine.check()
    place = Path(folder)
    is_new = not place.exists()
    if overwrite and is_first_process():
        _remove(place)
    if finished := _open(place, _description(model, data, recipe), resume):
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
            tell=tell,
        )
    except BaseException as error:  # Ctrl-C too, at which Lightning may exit
        _forget_unbegun(place, is_new)
        if isinstance(error, TrainingStopped) and not first_of_group():
            return None  # were this an error, Lightning would kill the process that tells it
        raise
    if not first_of_group():
        return None
    saved: Any = model  # what it does not have yet, it is given
    saved.preprocessing, saved.categories = data.preprocessing, data.classes
    saved.save_pretrained(place)
    figures = evaluate(model, data.test, machine=machine._replace(devices=1, num_nodes=1))
    results = _results(model, data, recipe, history, figures)
    names = draw_pictures(model, data, history, figures, place)
    pictures = {name: place / f"{name}.png" for name in names}
    write_report(place / REPORT, results, (place / RECIPE).read_text(), pictures)
    _write(place / RESULTS, json.dumps(results, indent=2))  # the last: it says that all is there
    shutil.rmtree(place / CHECKPOINTS)
    return results


def read_results(folder: str | PathLike[str]) -> dict[str, Any]:
    """What the results.json of a finished run holds; nothing if there is none.

    Raises:
        ValueError: there is a file of that name that holds something else.
    """
    path = Path(folder) / RESULTS
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the results of a run: {error}") from error


def _description(model: ImageClassifier, data: ImageData, recipe: Recipe) -> dict[str, Any]:
    """What recipe.yaml holds: network, data, and every key of the recipe."""
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


def _open(folder: Path, description: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """Make the folder, or find the same run in it; its results if it is finished."""
    recipe = folder / RECIPE
    if not is_first_process():
        return (resume and read_results(folder)) or None
    if recipe.exists():
        if not resume:
            raise ValueError(f"{folder} holds a run: resume it, overwrite it, or name another")
        written = yaml.safe_load(recipe.read_text())
        old = {**asdict(Recipe()), **written}  # keys that came since were as by default
        for key in description:
            if old.get(key) != description[key]:
                raise ValueError(
                    f"{folder} holds a run with {key}={old.get(key)!r}, not {description[key]!r}"
                )
        return read_results(folder) or None
    half = recipe.with_name(f"{RECIPE}.part")  # is all that a killed process left
    if folder.exists() and any(path != half for path in folder.iterdir()):
        raise ValueError(f"{folder} holds other files; name an empty or new folder")
    folder.mkdir(parents=True, exist_ok=True)
    _write(recipe, yaml.safe_dump(description, sort_keys=False, width=100))
    return None


def _has_begun(folder: Path) -> bool:
    """Whether a run has saved anything."""
    return (folder / HISTORY).exists() or any((folder / CHECKPOINTS).glob("*.ckpt"))


def _forget_unbegun(folder: Path, is_new: bool) -> None:
    """Remove a run that saved nothing, so that it can be started again."""
    if is_first_process() and not _has_begun(folder) and not _others(folder):
        _remove(folder)
        if is_new:
            folder.rmdir()


def _others(folder: Path) -> list[str]:
    """Names of what no run has put there."""
    files = {RECIPE, RESULTS, HISTORY, REPORT, *SAVED, *(f"{name}.png" for name in TITLES)}
    known = files | {f"{name}.part" for name in files} | {CHECKPOINTS}
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def _remove(folder: Path) -> None:
    """Remove the run in a folder; the folder stays, as it may be where somebody works.

    Raises:
        ValueError: there are other files, which may be anybody's.
    """
    if not (folder / RECIPE).exists():
        return
    if others := _others(folder):
        raise ValueError(f"{folder} holds more than a run ({others[0]}): remove it yourself")
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
    figures: Evaluation,
) -> dict[str, Any]:
    """All that a table needs to know of a run."""
    test = figures._asdict()
    test["confusion"] = figures.confusion.tolist()
    # Of a class without test images nothing is known; JSON has no word for nan.
    test["per_class"] = {k: None if v != v else v for k, v in figures.per_class.items()}
    folder = named_folder(data.name)
    return {
        "model": model.builder,
        "options": model.options,
        "parameters": count_parameters(model),
        "data": data.name,
        "data_folder": folder and str(folder.resolve()),  # the same from wherever it is asked
        "train_images": len(data.train),
        "test_images": len(data.test),
        "test": test,
        "epochs": len(history.rows),
        "minutes": sum(history["seconds"]) / 60,
        "seed": recipe.seed,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {
            "cnnarch": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _cpu() -> str:
    """The processor's name, where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
