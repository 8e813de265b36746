"""Train and evaluate a network."""

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.modes import evaluating
from cnnarch.facts.output import lasting_output
from cnnarch.training.callbacks import Recorder
from cnnarch.training.checks import (
    check_fits,
    check_run,
    warn_if_accumulation_is_cut,
    warn_if_short,
)
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.history import History
from cnnarch.training.loading import evaluation_loader
from cnnarch.training.machine import Machine, is_first_process, silence_lightning
from cnnarch.training.recipe import Recipe
from cnnarch.training.recipes import TRANSFER, find_recipe, is_for_transfer, with_weights
from cnnarch.training.record import record_images
from cnnarch.training.stage import StageRun
from cnnarch.training.task import EvaluationTask

THIS_MACHINE = Machine()


class Evaluation(NamedTuple):
    """A network's metrics on a set of images; all except loss and confusion are in [0, 1].

    Args:
        loss: mean cross-entropy.
        top1: fraction of images whose label has the highest logit.
        top5: fraction of images whose label has one of the five highest logits.
        calibration_error: expected calibration error with 15 bins.
        per_class: accuracy for each class; nan for classes without images. If several classes have
            the same name, their indices are added.
        confusion: number of images by label (row) and prediction (column).
        predictions: the class index with the highest logit for each image, (N,).
        probabilities: its probability for each image, (N,).
    """

    loss: float
    top1: float
    top5: float
    calibration_error: float
    per_class: dict[str, float]
    confusion: Tensor
    predictions: Tensor
    probabilities: Tensor

    @property
    def precision(self) -> dict[str, float]:
        """Fraction of each class's predictions that are correct; nan if it is never predicted."""
        return self._by_class(self.confusion.diag().double() / self.confusion.sum(0))

    @property
    def f1(self) -> dict[str, float]:
        """F1 score of each class; nan for classes without images and predictions."""
        counts = self.confusion
        return self._by_class(2 * counts.diag().double() / (counts.sum(0) + counts.sum(1)))

    def figures(self) -> dict[str, Any]:
        """Return all metrics except those of single images as values for JSON, with None for nan.

        `macro_f1` is the mean F1 score of the classes. With at most five classes, `top5` is always
        1 and is omitted.
        """
        by_class = {"per_class": self.per_class, "precision": self.precision, "f1": self.f1}
        defined = [value for value in self.f1.values() if value == value]
        values: dict[str, Any] = {
            "images": len(self.predictions),
            "loss": self.loss,
            "top1": self.top1,
            "top5": self.top5,
            "macro_f1": sum(defined) / len(defined),
            "calibration_error": self.calibration_error,
        }
        if len(self.per_class) <= 5:
            del values["top5"]
        for name, shares in by_class.items():
            values[name] = {k: None if v != v else v for k, v in shares.items()}
        return values | {"confusion": self.confusion.tolist()}

    def _by_class(self, values: Tensor) -> dict[str, float]:
        return dict(zip(self.per_class, values.tolist(), strict=True))


def evaluate(
    model: nn.Module, images: ImageSet, *, batch_size: int = 256, machine: Machine = THIS_MACHINE
) -> Evaluation:
    """Evaluate a network without changing its weights or mode.

    Args:
        model: a classifier with the same classes and channels as `images`.
        images: the images to evaluate on, normalized and interpolated as the network's pretrained
            or trained weights require.
        batch_size: images per batch.
        machine: the device to evaluate on; a single device is enough.

    Raises:
        TypeError: `images` is not an image set.
        ValueError: the network is incompatible with the images.
    """
    if not isinstance(images, ImageSet):
        raise TypeError(
            f"images must be an image set such as data.test or data.test.subset(indices), got "
            f"{type(images).__name__}"
        )
    images = images.matched_to(model)
    check_fits(model, images)
    task = EvaluationTask(model, images)
    with silence_lightning(), evaluating(model):
        trainer = machine.trainer(
            logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        loader = evaluation_loader(images, batch_size, machine.num_workers)
        trainer.test(task, loader, verbose=False)
    confusion = task.confusion
    accuracies = (confusion.diag().double() / confusion.sum(1)).tolist()
    per_class = dict(zip(_distinct(images.classes), accuracies, strict=True))
    predictions, probabilities = (torch.cat(each) for each in (task.found, task.probabilities))
    return Evaluation(
        **task.results,
        per_class=per_class,
        confusion=confusion,
        predictions=predictions,
        probabilities=probabilities,
    )


def _distinct(classes: Sequence[str]) -> list[str]:
    """Return the class names, with the index of each class whose name is not unique."""
    counts = Counter(classes)
    return [f"{name} #{i}" if counts[name] > 1 else name for i, name in enumerate(classes)]


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
        TypeError: the recipe freezes stages or has learning rates for stages, but the network is
            not from this package.
        ValueError: the network is incompatible with the data or lacks a stage to be frozen, or the
            run to resume used other images.
        NonFiniteLossError: the loss became infinite or NaN.
    """
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
    recorder = Recorder(History(), folder and folder / "metrics.csv", on_epoch_end)
    output_of_run = lasting_output("training") if progress or on_epoch_end else nullcontext()
    with (
        isolate_rng(),
        silence_lightning(),
        output_of_run,
        tempfile.TemporaryDirectory() as scratch,
    ):
        checkpoints = (folder or Path(scratch)) / "checkpoints"
        for number, stage in enumerate(recipe.stages(), 1):
            run = StageRun(number, stage, checkpoints, recorder, keep=folder is not None)
            run.run(model, data, machine, resume, loggers, progress)
    model.eval()
    if isinstance(model, ImageClassifier):
        model.preprocessing = data.preprocessing
    return recorder.history
