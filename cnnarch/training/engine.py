"""Train a network with a recipe."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path

import torch
from lightning.fabric.loggers.logger import Logger
from torch import nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.output import lasting_output
from cnnarch.training.checks import (
    check_run,
    check_types,
    warn_if_accumulation_is_cut,
    warn_if_short,
)
from cnnarch.training.data import ImageData
from cnnarch.training.history import History, Recorder
from cnnarch.training.machine import THIS_MACHINE, Machine, is_first_process
from cnnarch.training.recipe import Recipe
from cnnarch.training.recipes import TRANSFER, find_recipe, is_for_transfer, with_weights
from cnnarch.training.record import record_images
from cnnarch.training.stage import StageRun


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    machine: Machine = THIS_MACHINE,
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    on_epoch_end: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train a network in place with a recipe, and leave it in eval mode.

    Calling `fit` again with a different recipe continues from the current weights.

    Args:
        model: a classifier with the same classes and channels as `data`.
        data: the data set. The test images are used only if `test_each_epoch` is set. Pretrained
            weights determine the mean, standard deviation and interpolation, and the input size if
            neither `load_data` nor the recipe does.
        recipe: the training recipe; None means `Recipe()`, or the recipe for transfer learning if
            the network has pretrained weights.
        output: folder for files.csv, metrics.csv and checkpoints; None saves nothing.
        resume: whether to resume from the checkpoints in `output`. The final weights are the same
            as those of an uninterrupted run. The images must be the same, but may have moved.
        machine: the devices to train on.
        loggers: Lightning loggers, in addition to metrics.csv.
        progress: whether to show a progress bar.
        on_epoch_end: called with the metrics of each epoch.

    Returns:
        The metrics of each epoch.

    Raises:
        TypeError: an argument has a wrong type, or the recipe freezes stages or has learning rates
            for stages, but the network is not from this package.
        ValueError: the network is incompatible with the data or lacks a stage to be frozen, or the
            run to resume used other images.
        NonFiniteLossError: the loss became infinite or NaN.
    """
    check_types(model=model, data=data, recipe=recipe, machine=machine)
    if recipe is None:
        source = getattr(model, "weights_source", None)
        recipe = find_recipe(TRANSFER) if is_for_transfer(source) else Recipe()
    recipe = with_weights(recipe, model)
    data = data.matched_to(model, recipe.image_resolution)
    check_run(model, data, recipe, machine)
    warn_if_short(data, recipe, machine)
    warn_if_accumulation_is_cut(data, recipe, machine)
    folder = None if output is None else Path(output)
    if folder and is_first_process():
        record_images(folder, data, recipe, resume)
    recorder = Recorder(History(), folder and folder / "metrics.csv", loggers, on_epoch_end)
    output_of_run = lasting_output("training") if progress or on_epoch_end else nullcontext()
    with (
        torch.random.fork_rng(),
        output_of_run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        checkpoints = (folder or Path(scratch)) / "checkpoints"
        for number, stage in enumerate(recipe.stages(), 1):
            kept = folder is not None
            run = StageRun(number, stage, checkpoints, recorder, keep=kept, progress=progress)
            run.run(model, data, machine, resume)
    for logger in loggers:
        logger.finalize("success")
    model.eval()
    if isinstance(model, ImageClassifier):
        model.preprocessing = data.preprocessing
    return recorder.history
