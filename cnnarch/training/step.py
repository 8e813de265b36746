"""A training step: the loss and metrics of a batch, the gradients and the update."""

from functools import partial
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cnnarch.training.average import MovingAverage
from cnnarch.training.capture import CapturedGradients, Method, choose_method
from cnnarch.training.optimization import (
    batches_per_step,
    load_optimizer,
    make_optimizer,
    make_schedule,
    number_of_epochs,
    peak_rate,
    steps_per_epoch,
)
from cnnarch.training.recipe import Recipe


class TrainingStep:
    """Trains a network on batches: computes gradients and updates the weights and their average.

    Args:
        fabric: the devices and the precision.
        model: the network, on `fabric.device` and in train mode.
        recipe: determines the optimizer, schedule, loss, clipping and average.
        images: number of training images.
        class_weights: factor for the loss of each class, (num_classes,); None weights all equally.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        recipe: Recipe,
        images: int,
        class_weights: Tensor | None = None,
    ) -> None:
        self.fabric = fabric
        self.model = model
        self.recipe = recipe
        self.batches = batches_per_step(recipe, images, fabric.world_size)
        """Number of batches whose gradients are averaged before an update."""
        self.class_weights = None if class_weights is None else class_weights.to(fabric.device)
        optimizer = make_optimizer(model, recipe, fused=fabric.device.type == "cuda")
        steps = steps_per_epoch(recipe, images, fabric.world_size)
        self.schedule = make_schedule(optimizer, recipe, steps)
        self.network, self.optimizer = fabric.setup(model, optimizer, move_to_device=False)
        total = number_of_epochs(recipe, steps) * steps
        self.method = choose_method(recipe, model, fabric.device, fabric.world_size, total)
        """How gradients are computed."""
        self._fast: CapturedGradients | None = self._make_fast()
        self.average = MovingAverage(model, recipe.ema) if recipe.ema else None
        self._is_updated = False  # whether the gradients are those of an earlier update

    def __call__(self, inputs: Tensor, targets: Tensor, updates: bool = True) -> Tensor:
        """Train on a batch and return its metrics on the device, as `compute_loss` does.

        Args:
            inputs: the network's input, (N, C, H, W).
            targets: class indices, (N,), or probabilities, (N, num_classes).
            updates: whether the weights are updated; otherwise, gradients are accumulated.
        """
        with self.fabric.no_backward_sync(self.network, enabled=not updates):
            metrics = self._compute_gradients(inputs, targets)
        if updates:
            self.update()
        return metrics

    def _compute_gradients(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the gradients by the chosen method, or in eager mode if it fails at first."""
        fast = self._fast
        if fast is None or not fast.fits(inputs, targets):
            return self._gradients(self.network, inputs, targets)
        try:
            return fast(inputs, targets)
        except Exception as error:  # whatever the compiler or the network raises
            if fast.replay is not None or self.recipe.compile is True:
                raise
            first = str(error).strip().partition("\n")[0]
            self._fast, self.method = None, Method(reason=f"the step cannot be captured: {first}")
            self.optimizer.zero_grad()
            return self._gradients(self.network, inputs, targets)

    def _gradients(self, network: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        loss, metrics = compute_loss(network(inputs), targets, self.recipe, self.class_weights)
        if self._is_updated:  # deleted here, their memory serves the backward pass
            self.optimizer.zero_grad()
            self._is_updated = False
        self.fabric.backward(loss / self.batches)
        return metrics

    def _make_fast(self) -> CapturedGradients | None:
        """Compile the network, and return what captures the gradients, according to `method`."""
        network = self.network
        if self.method.compiled:
            network = torch.compile(network, dynamic=False)
            if not self.method.captured:
                self.network = network
        if not self.method.captured:
            return None
        return CapturedGradients(partial(self._gradients, network), self.model)

    def update(self) -> None:
        """Update the weights, the learning rate and the average."""
        if limit := self.recipe.clip_gradient:
            self.fabric.clip_gradients(
                self.network, self.optimizer, max_norm=limit, error_if_nonfinite=False
            )
        self.optimizer.step()
        self._is_updated = True
        self.schedule.step()
        if self.average:
            self.average.update()

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step: the head's, with layer decay."""
        return peak_rate(self.optimizer)

    @property
    def result(self) -> nn.Module:
        """The network to evaluate and save: the average of the weights, if there is one."""
        return self.average.model if self.average else self.model

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next steps depend on."""
        values = {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }
        if self.average:
            values |= {"updates": self.average.count, "current": self.model.state_dict()}
        return values

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, except for the weights of `result`."""
        load_optimizer(self.optimizer, saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.fabric.strategy.precision.load_state_dict(saved["precision"])
        if self.average:
            self.average.count = saved["updates"]
            self.model.load_state_dict(saved["current"])


def compute_loss(
    outputs: Any, targets: Tensor, recipe: Recipe, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss to minimize, and a batch's metrics.

    Args:
        outputs: logits, (N, num_classes), or a tuple of logits and auxiliary logits.
        targets: class indices, (N,), or for mixed images probabilities, (N, num_classes).
        recipe: determines label smoothing and the weight of auxiliary losses.
        class_weights: factor for the loss of each class, (num_classes,); None weights all equally.

    Returns:
        The loss, and the metrics: cross-entropy, accuracy, and the cross-entropy of each auxiliary
        head. They are on the device of the logits.
    """
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    logits = [head.float() for head in heads if head is not None]
    main, *auxiliary = (
        _mean_cross_entropy(each, targets, recipe.label_smoothing, class_weights) for each in logits
    )
    loss = main + recipe.aux_weight * torch.stack(auxiliary).sum() if auxiliary else main
    labels = targets.argmax(1) if targets.dim() > 1 else targets
    metrics = [main, accuracy(logits[0], labels), *auxiliary]
    return loss, torch.stack(metrics).detach()


def metric_names(count: int) -> list[str]:
    """Return the names of a number of metrics that `compute_loss` returned."""
    return ["loss", "acc", *(f"aux{i}_loss" for i in range(1, count - 1))]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the fraction of images whose label has the highest logit."""
    return (logits.argmax(1) == labels).float().mean()


def _mean_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float, class_weights: Tensor | None
) -> Tensor:
    """Return the mean over the images.

    PyTorch's weighted mean divides by the sum of the weights in the batch instead, so they would
    cancel out in a batch of one class.
    """
    if class_weights is None:
        return cross_entropy(logits, targets, label_smoothing=smoothing)
    loss = cross_entropy(
        logits, targets, class_weights, reduction="none", label_smoothing=smoothing
    )
    return loss.mean()
