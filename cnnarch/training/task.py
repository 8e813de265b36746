"""What Lightning drives: loss and figures of a classifier, one batch at a time."""

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
)

from cnnarch.training.data import ImageSet
from cnnarch.training.optimization import make_optimizer, make_schedule
from cnnarch.training.recipe import Recipe

__all__ = ["EvaluationTask", "NonFiniteLossError", "TrainingTask"]


class NonFiniteLossError(FloatingPointError):
    """Loss or weights are infinite or not a number; earlier checkpoints are as they were."""


class TrainingTask(LightningModule):
    """Cross-entropy with auxiliary losses; loss and accuracy over all images of each epoch.

    Args:
        model: a classifier; it returns logits, or a tuple of logits and auxiliary logits.
        recipe: optimizer, schedule, label smoothing, weight of the auxiliary losses.
        splits: prefixes of the figures of what is evaluated after each epoch.
        steps_per_epoch: optimizer steps.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        splits: Iterable[str],
        steps_per_epoch: int,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.splits = tuple(splits)
        self.steps_per_epoch = steps_per_epoch
        self.latest: dict[str, Tensor] = {}
        """Loss and accuracy of the last step, for who looks on."""

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Loss of a batch; targets are class indices or the shares of a mixture."""
        inputs, targets = batch
        outputs = self.model(inputs)
        logits, *others = outputs if isinstance(outputs, tuple) else (outputs,)
        smoothing = self.recipe.label_smoothing
        losses = [
            cross_entropy(output.float(), targets, label_smoothing=smoothing)
            for output in (logits, *others)
            if output is not None
        ]
        main, *auxiliary = losses
        loss = main + self.recipe.aux_weight * torch.stack(auxiliary).sum() if auxiliary else main
        self._check_finite(loss)
        labels = targets.argmax(1) if targets.dim() > 1 else targets
        self.latest = self._record("train", main, logits, labels)
        for i, auxiliary_loss in enumerate(auxiliary, 1):
            self._log(f"train_aux{i}_loss", auxiliary_loss.detach(), len(labels))
        return loss

    def validation_step(
        self, batch: tuple[Tensor, Tensor], _index: int, dataloader_idx: int = 0
    ) -> None:
        """Figures of a batch that is not learned from."""
        inputs, labels = batch
        logits = self.model(inputs).float()
        self._record(self.splits[dataloader_idx], cross_entropy(logits, labels), logits, labels)

    def on_train_epoch_end(self) -> None:
        """Keep no checkpoint of weights that the epoch's last step broke; no loss has seen them."""
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            self._stop("weights became infinite or not a number", self.global_step)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The recipe's optimizer and its schedule, which moves at every step."""
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, self.steps_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _record(
        self, split: str, loss: Tensor, logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        right = (logits.argmax(1) == labels).float().mean()
        figures = {"loss": loss.detach(), "acc": right.detach()}
        for name, value in figures.items():
            self._log(f"{split}_{name}", value, len(labels))
        return figures

    def _log(self, name: str, value: Tensor, images: int) -> None:
        """Add a batch's mean to the mean over the epoch's images, of all processes.

        Lightning divides what these add up by their number, in integers; so it is multiplied here.
        """
        self.log(
            name,
            value,
            on_step=False,
            on_epoch=True,
            batch_size=images * self.trainer.world_size,
            sync_dist=True,
            add_dataloader_idx=False,
        )

    def _check_finite(self, loss: Tensor) -> None:
        mine = finite = bool(loss.isfinite())
        if self.trainer.world_size > 1:  # or the other processes would wait for this one
            finite = self.trainer.strategy.reduce_boolean_decision(finite, all=True)
        if not finite:
            what = "another process's loss became infinite or not a number"
            self._stop(what if mine else f"the loss became {loss.item()}", self.global_step + 1)

    def _stop(self, what: str, step: int) -> NoReturn:
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise NonFiniteLossError(
            f"{what} in epoch {self.current_epoch + 1}, step {step}, at learning rate {rate:.3g}"
        )


class EvaluationTask(LightningModule):
    """All figures of a trained classifier, over one `Trainer.test`.

    Args:
        model: a classifier that returns logits.
        images: what it is measured on.
    """

    def __init__(self, model: nn.Module, images: ImageSet) -> None:
        super().__init__()
        self.model = model
        self.images = images
        count = len(images.classes)
        # Where several processes run, each measures all images for itself.
        alone: dict[str, Any] = {"distributed_available_fn": lambda: False}
        self.loss = MeanMetric(**alone)
        self.top1 = MulticlassAccuracy(count, average="micro", **alone)
        self.top5 = MulticlassAccuracy(count, average="micro", top_k=min(5, count), **alone)
        self.calibration_error = MulticlassCalibrationError(count, n_bins=15, **alone)
        self.confusion_matrix = MulticlassConfusionMatrix(count, **alone)

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, int], _loader: int
    ) -> tuple[Tensor, Tensor]:
        """The network's input and labels."""
        pixels, labels, _ = batch
        return self.images.prepare(pixels), labels

    def test_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:  # noqa: PT019
        """Add a batch to the figures."""
        inputs, labels = batch
        logits = self.model(inputs).float()
        self.loss.update(cross_entropy(logits, labels), len(labels))
        for figure in (self.top1, self.top5, self.confusion_matrix):
            figure.update(logits, labels)
        # torchmetrics would take logits between 0 and 1, as NiN's may be, for probabilities.
        self.calibration_error.update(logits.softmax(1), labels)

    def on_test_epoch_end(self) -> None:
        """Keep the figures, which Lightning would reset."""
        names = ("loss", "top1", "top5", "calibration_error")
        self.results = {name: float(getattr(self, name).compute()) for name in names}
        self.confusion = self.confusion_matrix.compute().cpu()
