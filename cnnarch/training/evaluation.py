"""Evaluate a network on labeled images."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
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
    loader = evaluation_loader(images, batch_size, device, machine.num_workers)
    metrics = _Metrics(len(images.classes), device)
    with moved_to(model, device), evaluating(model):
        for inputs, labels in loader.epoch():
            metrics.update(model(inputs).float(), labels)
    return metrics.compute(images.classes)


class _Metrics:
    """Accumulates an evaluation's metrics on a device."""

    def __init__(self, count: int, device: torch.device) -> None:
        # In distributed training, each process evaluates all images.
        alone: dict[str, Any] = {"distributed_available_fn": lambda: False}
        exact = alone | {"validate_args": False}  # the checks would wait for the device
        self.loss = MeanMetric(**alone).to(device)
        self.top1 = MulticlassAccuracy(count, average="micro", **exact).to(device)
        top5 = MulticlassAccuracy(count, average="micro", top_k=min(5, count), **exact)
        self.top5 = top5.to(device)
        self.calibration_error = MulticlassCalibrationError(count, n_bins=15, **exact).to(device)
        self.confusion = MulticlassConfusionMatrix(count, **exact).to(device)
        self.predictions: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch without waiting for the device."""
        self.loss.update(cross_entropy(logits, labels), len(labels))
        for metric in (self.top1, self.top5, self.confusion):
            metric.update(logits, labels)
        # NiN can return logits between 0 and 1, which torchmetrics would treat as probabilities.
        shares = logits.softmax(1)
        self.calibration_error.update(shares, labels)
        found = logits.argmax(1)
        self.predictions.append(found)
        self.probabilities.append(shares.gather(1, found[:, None]).flatten())

    def compute(self, classes: Sequence[str]) -> Evaluation:
        """Return the metrics of all images."""
        names = ("loss", "top1", "top5", "calibration_error")
        confusion = self.confusion.compute().cpu()
        accuracies = (confusion.diag().double() / confusion.sum(1)).tolist()
        return Evaluation(
            **{name: float(getattr(self, name).compute()) for name in names},
            per_class=dict(zip(_distinct(classes), accuracies, strict=True)),
            confusion=confusion,
            predictions=torch.cat(self.predictions).cpu(),
            probabilities=torch.cat(self.probabilities).cpu(),
        )


def _distinct(classes: Sequence[str]) -> list[str]:
    """Return the class names, with the index of each class whose name is not unique."""
    counts = Counter(classes)
    return [f"{name} #{i}" if counts[name] > 1 else name for i, name in enumerate(classes)]
