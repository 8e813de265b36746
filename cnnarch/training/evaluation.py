"""Evaluate a network on labeled images."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_confusion_matrix,
)

from cnnarch.contract.modes import evaluating
from cnnarch.training.checks import check_fits
from cnnarch.training.data import ImageSet
from cnnarch.training.loading import evaluation_loader
from cnnarch.training.machine import THIS_MACHINE, Machine, moved_to


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
    device = machine._replace(devices=1, num_nodes=1).fabric().device
    batches = evaluation_loader(images, batch_size, device, machine.num_workers)
    with closing(batches) as loader, moved_to(model, device), evaluating(model):
        found = [_judge(model(inputs).float(), labels) for inputs, labels in loader.epoch()]
    return _summarize(found, images)


def _judge(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Return each image's cross-entropy, prediction, its probability, and top-5 correctness."""
    probability, prediction = logits.softmax(1).max(1)
    best = logits.topk(min(5, logits.shape[1])).indices
    in_top5 = (best == labels[:, None]).any(1)
    return cross_entropy(logits, labels, reduction="none"), prediction, probability, in_top5


def _summarize(found: Sequence[tuple[Tensor, ...]], images: ImageSet) -> Evaluation:
    """Return the metrics of all images from the results of `_judge` for each batch."""
    columns = (torch.cat(column).cpu() for column in zip(*found, strict=True))
    losses, predictions, probabilities, in_top5 = columns
    labels, count = images.labels, len(images.classes)
    is_correct = predictions == labels
    confusion = multiclass_confusion_matrix(predictions, labels, count)
    accuracies = (confusion.diag().double() / confusion.sum(1)).tolist()
    return Evaluation(
        loss=float(losses.double().mean()),
        top1=float(is_correct.double().mean()),
        top5=float(in_top5.double().mean()),
        calibration_error=float(binary_calibration_error(probabilities, is_correct, n_bins=15)),
        per_class=dict(zip(_distinct(images.classes), accuracies, strict=True)),
        confusion=confusion,
        predictions=predictions,
        probabilities=probabilities,
    )


def _distinct(classes: Sequence[str]) -> list[str]:
    """Return the class names, with the index of each class whose name is not unique."""
    counts = Counter(classes)
    return [f"{name} #{i}" if counts[name] > 1 else name for i, name in enumerate(classes)]
