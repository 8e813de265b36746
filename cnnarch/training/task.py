"""Lightning modules that compute a classifier's loss and metrics for each batch."""

from collections import OrderedDict
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
from cnnarch.training.optimization import make_optimizer, make_schedule, peak_rate
from cnnarch.training.recipe import Recipe


class NonFiniteLossError(FloatingPointError):
    """Raised when the loss or the weights become infinite or NaN; earlier checkpoints are kept."""


class TrainingTask(LightningModule):
    """Trains with cross-entropy and auxiliary losses; logs the loss and accuracy of each epoch.

    Args:
        model: a classifier that returns logits, or a tuple of logits and auxiliary logits.
        recipe: determines the optimizer, schedule, label smoothing and auxiliary loss weight.
        splits: metric prefix for each validation loader.
        steps_per_epoch: number of optimizer steps per epoch.
        class_weights: factor for the loss of each class, (num_classes,); None weights all equally.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        splits: Iterable[str],
        steps_per_epoch: int,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.splits = tuple(splits)
        self.steps_per_epoch = steps_per_epoch
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.latest: dict[str, Tensor] = {}
        """The last step's loss and accuracy, for the progress bar."""

    def training_step(self, batch: tuple[Tensor, Tensor], _index: int) -> Tensor:
        """Return a batch's loss; targets are class indices or, for mixed images, probabilities."""
        inputs, targets = batch
        outputs = self.model(inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        main, *auxiliary = (
            self._loss(logits.float(), targets) for logits in outputs if logits is not None
        )
        loss = main + self.recipe.aux_weight * torch.stack(auxiliary).sum() if auxiliary else main
        self._check_finite(loss)
        labels = targets.argmax(1) if targets.dim() > 1 else targets
        self.latest = self._log_metrics("train", main, outputs[0], labels)
        for i, auxiliary_loss in enumerate(auxiliary, 1):
            self._log(f"train_aux{i}_loss", auxiliary_loss.detach(), len(labels))
        return loss

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the images.

        PyTorch's weighted mean divides by the sum of the weights in the batch instead, so they
        would cancel out in a batch of one class.
        """
        options: dict[str, Any] = {"label_smoothing": self.recipe.label_smoothing}
        if self.class_weights is None:
            return cross_entropy(logits, targets, **options)
        options |= {"weight": self.class_weights, "reduction": "none"}
        return cross_entropy(logits, targets, **options).mean()

    def validation_step(
        self, batch: tuple[Tensor, Tensor], _index: int, dataloader_idx: int = 0
    ) -> None:
        """Log the loss and accuracy of a validation or test batch."""
        inputs, labels = batch
        logits = self.model(inputs).float()
        loss = cross_entropy(logits, labels)
        self._log_metrics(self.splits[dataloader_idx], loss, logits, labels)

    def on_train_epoch_end(self) -> None:
        """Check the weights before saving; no loss is computed after the last update."""
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            self._fail("weights became infinite or NaN", self.global_step)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Create the recipe's optimizer and its schedule, which is updated after every step."""
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, self.steps_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the metadata of the weights, which Lightning's weight averaging drops."""
        weights = OrderedDict(checkpoint["state_dict"])
        setattr(weights, "_metadata", getattr(self.state_dict(), "_metadata"))  # noqa: B009, B010
        checkpoint["state_dict"] = weights

    def _log_metrics(
        self, split: str, loss: Tensor, logits: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        accuracy = (logits.argmax(1) == labels).float().mean()
        metrics = {"loss": loss.detach(), "acc": accuracy}
        for name, value in metrics.items():
            self._log(f"{split}_{name}", value, len(labels))
        return metrics

    def _log(self, name: str, value: Tensor, images: int) -> None:
        """Log a batch mean, which Lightning averages over the images of all processes.

        Lightning divides the summed batch sizes by the number of processes using integer division.
        Multiplying the batch size by the number of processes avoids rounding.
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
        here = everywhere = bool(loss.isfinite())
        if self.trainer.world_size > 1:  # otherwise, the other processes would hang
            everywhere = self.trainer.strategy.reduce_boolean_decision(here, all=True)
        if not everywhere:
            what = "the loss in another process" if here else "the loss"
            value = "infinite or NaN" if here else loss.item()
            self._fail(f"{what} became {value}", self.global_step + 1)

    def _fail(self, what: str, step: int) -> NoReturn:
        rate = peak_rate(self.trainer.optimizers[0])
        raise NonFiniteLossError(
            f"{what} in epoch {self.current_epoch + 1}, step {step}, at learning rate {rate:.3g}"
        )


class EvaluationTask(LightningModule):
    """Computes all of a classifier's metrics in a single call to `Trainer.test`.

    Args:
        model: a classifier that returns logits.
        images: the images to evaluate on.
    """

    def __init__(self, model: nn.Module, images: ImageSet) -> None:
        super().__init__()
        self.model = model
        self.images = images
        count = len(images.classes)
        # In distributed training, each process evaluates all images.
        alone: dict[str, Any] = {"distributed_available_fn": lambda: False}
        self.loss = MeanMetric(**alone)
        self.top1 = MulticlassAccuracy(count, average="micro", **alone)
        self.top5 = MulticlassAccuracy(count, average="micro", top_k=min(5, count), **alone)
        self.calibration_error = MulticlassCalibrationError(count, n_bins=15, **alone)
        self.confusion_matrix = MulticlassConfusionMatrix(count, **alone)
        self.found: list[Tensor] = []
        """The class with the highest logit for each image, in batches."""
        self.probabilities: list[Tensor] = []

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, int], _loader: int
    ) -> tuple[Tensor, Tensor]:
        """Preprocess pixels on the device."""
        pixels, labels, _ = batch
        return self.images.prepare(pixels), labels

    def test_step(self, batch: tuple[Tensor, Tensor], _index: int) -> None:  # noqa: PT019
        """Update the metrics with the results for a batch."""
        inputs, labels = batch
        logits = self.model(inputs).float()
        self.loss.update(cross_entropy(logits, labels), len(labels))
        for metric in (self.top1, self.top5, self.confusion_matrix):
            metric.update(logits, labels)
        # NiN can return logits between 0 and 1, which torchmetrics would treat as probabilities.
        shares = logits.softmax(1)
        self.calibration_error.update(shares, labels)
        found = logits.argmax(1)
        self.found.append(found.cpu())
        self.probabilities.append(shares.gather(1, found[:, None]).flatten().cpu())

    def on_test_epoch_end(self) -> None:
        """Store the values before Lightning resets the metrics."""
        names = ("loss", "top1", "top5", "calibration_error")
        self.results = {name: float(getattr(self, name).compute()) for name in names}
        self.confusion = self.confusion_matrix.compute().cpu()
