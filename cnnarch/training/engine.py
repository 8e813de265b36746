"""Train a network, and measure one."""

import tempfile
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from cnnarch.contract.modes import evaluating
from cnnarch.training.callbacks import Recorder
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.history import History
from cnnarch.training.loading import evaluation_loader
from cnnarch.training.machine import Machine, quiet
from cnnarch.training.recipe import Recipe
from cnnarch.training.stage import StageRun, check_freezing
from cnnarch.training.task import EvaluationTask

__all__ = ["Evaluation", "check_fits", "evaluate", "fit"]

HERE = Machine()


class Evaluation(NamedTuple):
    """Figures of a network on a set of images; all but loss and confusion are in [0, 1].

    Args:
        loss: mean cross-entropy.
        top1: share of images whose highest logit is the label's.
        top5: share of images whose label is among the five highest logits.
        calibration_error: expected difference of confidence and accuracy, over 15 bins.
        per_class: share of each class's images that are right; nan where there are none.
        confusion: number of images by label (row) and prediction (column).
    """

    loss: float
    top1: float
    top5: float
    calibration_error: float
    per_class: dict[str, float]
    confusion: Tensor


def evaluate(
    model: nn.Module, images: ImageSet, *, batch_size: int = 256, machine: Machine = HERE
) -> Evaluation:
    """Measure a network; its weights and mode stay as they are.

    Args:
        model: a classifier of `images`' classes and channels.
        images: what to measure it on.
        batch_size: images at a time.
        machine: where to compute; one device is enough.

    Raises:
        ValueError: the network does not fit the images.
    """
    check_fits(model, images)
    task = EvaluationTask(model, images)
    with quiet(), evaluating(model):
        trainer = machine.trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        loader = evaluation_loader(images, batch_size, machine.num_workers)
        trainer.test(task, loader, verbose=False)
    confusion = task.confusion
    right = (confusion.diag() / confusion.sum(1)).tolist()
    per_class = dict(zip(images.classes, right, strict=True))
    return Evaluation(**task.results, per_class=per_class, confusion=confusion)


def fit(
    model: nn.Module,
    data: ImageData,
    recipe: Recipe | None = None,
    *,
    output: str | PathLike[str] | None = None,
    resume: bool = False,
    machine: Machine = HERE,
    loggers: Sequence[Logger] = (),
    progress: bool = False,
    tell: Callable[[dict[str, float]], None] | None = None,
) -> History:
    """Train a network as a recipe says; it is changed in place and left in eval mode.

    Called again with another recipe, training goes on from the weights that it has.

    Args:
        model: a classifier of `data`'s classes and channels.
        data: what to learn. Its test images are measured only if the recipe asks for curves.
        recipe: None means `Recipe()`.
        output: folder for metrics.csv and checkpoints, written after each epoch; None keeps
            nothing.
        resume: whether to go on from the checkpoints in `output`, to the weights that an
            uninterrupted run ends with.
        machine: where to compute.
        loggers: any of Lightning's, besides metrics.csv.
        progress: whether to show a bar.
        tell: called with the figures of each epoch.

    Returns:
        loss and accuracy of each epoch.

    Raises:
        TypeError: the recipe freezes stages of a network that is not of this package.
        ValueError: the network does not fit the data, or has not the stages to freeze.
        NonFiniteLossError: the loss became infinite or not a number.
    """
    recipe = recipe or Recipe()
    check_fits(model, data.train)
    check_freezing(model, recipe)
    machine.check()
    folder = None if output is None else Path(output)
    recorder = Recorder(History(), folder and folder / "metrics.csv", tell)
    with isolate_rng(), quiet(), tempfile.TemporaryDirectory() as scratch:
        checkpoints = (folder or Path(scratch)) / "checkpoints"
        for number, stage in enumerate(recipe.stages(), 1):
            run = StageRun(number, stage, checkpoints, recorder, keep=folder is not None)
            run.run(model, data, machine, resume, loggers, progress)
    model.eval()
    return recorder.history


def check_fits(model: nn.Module, images: ImageSet) -> None:
    """Compare with what cnnarch's networks say of themselves; others fail in their first step.

    Raises:
        ValueError: the network does not fit the images.
    """
    facts = (("num_classes", len(images.classes)), ("in_channels", images.channels))
    for name, wanted in facts:
        if getattr(model, name, wanted) != wanted:
            raise ValueError(
                f"the data need {name}={wanted}, the network has {getattr(model, name)}"
            )
    size, least = images.preprocessing.crop_size, getattr(model, "min_input_size", 1)
    fixed = getattr(model, "fixed_input_size", False)
    if size < least or (size != least and fixed):
        allowed = f"exactly {least}" if fixed else f"{least} pixels or more"
        raise ValueError(f"the network's input is {allowed}, the data's is {size}")
