"""The training loop: steps, epochs and validation."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn.functional import cross_entropy

from cnnarch.contract.modes import evaluating
from cnnarch.training.finite import LossCheck, check_weights, largest
from cnnarch.training.loading import ImageLoader
from cnnarch.training.signals import TrainingStopped
from cnnarch.training.step import TrainingStep, accuracy, metric_names


@dataclass
class Position:
    """What a checkpoint stores about the progress of a stage.

    Args:
        epoch: number of completed epochs.
        batch: number of batches trained on in the current epoch.
        step: number of completed optimizer steps.
        learning_rate: the learning rate at the start of the epoch.
        seconds: duration of the earlier parts of the epoch, if it was interrupted.
        sums: sum of each metric over the epoch's images.
        images: number of these images.
        best: the highest validation accuracy.
        since_best: number of epochs since then.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    images: int = 0
    best: float = -math.inf
    since_best: int = 0


class Observer(Protocol):
    """What the loop calls while it trains."""

    def on_step(self, position: Position, metrics: Tensor) -> None:
        """Show a batch's metrics, which are on the device."""

    def on_epoch(self, row: dict[str, float]) -> None:
        """Record an epoch's metrics."""

    def on_save(self, *, best: bool) -> None:
        """Write a checkpoint; `best` is whether the epoch has the highest validation accuracy."""

    def received_signal(self) -> int:
        """Return the number of the signal that should stop training, or 0."""


class Loop:
    """Trains a network for a number of epochs.

    Args:
        fabric: the devices and the precision.
        step: trains the network on a batch.
        train: the training images.
        watched: images to evaluate on after each epoch, keyed by the prefix of their metrics.
        epochs: number of epochs.
        observer: records the metrics and writes checkpoints.
        patience: number of epochs without a better validation accuracy after which training stops;
            0 means never.
    """

    def __init__(
        self,
        fabric: Fabric,
        step: TrainingStep,
        train: ImageLoader,
        watched: Mapping[str, ImageLoader],
        epochs: int,
        observer: Observer,
        patience: int = 0,
    ) -> None:
        self.fabric = fabric
        self.step = step
        self.train = train
        self.watched = watched
        self.epochs = epochs
        self.observer = observer
        self.patience = patience
        self.position = Position()
        self._sums: Tensor | None = None
        self.losses = LossCheck(fabric)

    def run(self) -> None:
        """Train until the last epoch, or until the validation accuracy stops improving.

        Raises:
            TrainingStopped: a signal was received; the checkpoint is up to date.
            NonFiniteLossError: the loss or the weights became infinite or NaN.
        """
        while not is_finished(self.position, self.epochs, self.patience):
            self._stop_if_signaled(self.position.epoch + 1, 0)
            started = time.perf_counter() - self.position.seconds
            row = self.train_epoch(started)
            for name, images in self.watched.items():
                row |= self.evaluate(name, images)
            row["seconds"] = time.perf_counter() - started
            self._finish_epoch(row)
        self._stop_if_signaled(self.position.epoch, len(self.train))

    def train_epoch(self, started: float) -> dict[str, float]:
        """Train on the rest of the epoch, and return its learning rate and training metrics."""
        position = self.position
        if not position.batch:
            position.learning_rate = self.step.learning_rate
        for inputs, targets in self.train.epoch(position.epoch, position.batch):
            place = self._place(position.step + 1)
            position.batch += 1
            updates = position.batch % self.step.batches == 0
            metrics = self.step(inputs, targets, updates)
            position.step += updates
            self._add(metrics, len(inputs))
            self.losses.add(place, metrics)
            self.observer.on_step(position, metrics)
            if updates and position.batch < len(self.train) and self._signal_within_epoch():
                position.seconds = time.perf_counter() - started
                self._stop()
        self.losses.check()
        assert self._sums is not None  # an epoch has at least one batch
        means = self._means(self._sums, position.images)
        names = [f"train_{name}" for name in metric_names(len(means))]
        return {"learning_rate": position.learning_rate, **dict(zip(names, means, strict=True))}

    def evaluate(self, name: str, images: ImageLoader) -> dict[str, float]:
        """Return the loss and accuracy on the images of all processes."""
        network = self.step.result
        if self.fabric.world_size > 1:  # BatchNorm's statistics differ between processes
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        total, count = torch.zeros(2, device=self.fabric.device), 0
        with evaluating(network), self.fabric.autocast():
            for inputs, labels in images.epoch():
                logits = network(inputs).float()
                metrics = [cross_entropy(logits, labels), accuracy(logits, labels)]
                total.add_(torch.stack(metrics), alpha=len(labels))
                count += len(labels)
        loss, share = self._means(total, count)
        return {f"{name}_loss": loss, f"{name}_acc": share}

    def state_dict(self) -> dict[str, Any]:
        """Return the position for a checkpoint."""
        self.position.sums = [] if self._sums is None else self._sums.tolist()
        return asdict(self.position)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from a saved position."""
        self.position = Position(**saved)
        sums = self.position.sums
        self._sums = torch.tensor(sums, device=self.fabric.device) if sums else None

    def _add(self, metrics: Tensor, images: int) -> None:
        """Add a batch's metrics to the epoch's, without waiting for the device."""
        if self._sums is None:
            self._sums = torch.zeros_like(metrics)
        self._sums.add_(metrics, alpha=images)
        self.position.images += images

    def _means(self, sums: Tensor, images: int) -> list[float]:
        """Return the means over the images of all processes."""
        count = torch.tensor([float(images)], device=sums.device)
        total: Any = self.fabric.all_reduce(torch.cat([sums, count]), reduce_op="sum")
        *values, number = total.tolist()
        return [value / number for value in values]

    def _finish_epoch(self, row: dict[str, float]) -> None:
        """Record the epoch and write a checkpoint."""
        position = self.position
        check_weights(self.step.model.parameters(), self._place(position.step))
        accuracy = row.get("val_acc", -math.inf)
        is_best = accuracy > position.best
        self.position = replace(
            position,
            epoch=position.epoch + 1,
            batch=0,
            seconds=0.0,
            images=0,
            best=max(accuracy, position.best),
            since_best=0 if is_best else position.since_best + 1,
        )
        self._sums = None
        self.observer.on_epoch(row)
        self.observer.on_save(best=is_best)

    def _place(self, step: int) -> str:
        rate = self.step.learning_rate
        return f"epoch {self.position.epoch + 1}, step {step}, at learning rate {rate:.3g}"

    def _signal(self) -> int:
        """Return the signal received by any process; all of them stop at the same step."""
        return largest(self.fabric, self.observer.received_signal())

    def _signal_within_epoch(self) -> int:
        """Like `_signal`, but on several GPUs only every few steps, because it waits for them."""
        is_due = self.fabric.world_size == 1 or self.position.batch % self.losses.interval == 0
        return self._signal() if is_due else 0

    def _stop(self) -> None:
        """Save a checkpoint within an epoch and stop."""
        self.losses.check()
        self.observer.on_save(best=False)
        self._stop_if_signaled(self.position.epoch + 1, self.position.batch)

    def _stop_if_signaled(self, epoch: int, batch: int) -> None:
        if number := self._signal():
            raise TrainingStopped(number, epoch, batch)


def is_finished(position: Position, epochs: int, patience: int) -> bool:
    """Return whether the last epoch is completed or the accuracy has stopped improving."""
    return position.epoch >= epochs or 0 < patience <= position.since_best
