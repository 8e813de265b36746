"""PyTorch optimizers and learning rate schedules for a recipe."""

from math import ceil
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from cnnarch.contract.parameter_groups import param_groups
from cnnarch.training.recipe import Recipe

AUTO_EPOCHS, MIN_STEPS = 5, 100  # the length of recipes with `num_steps: auto`
AUTO_BATCH = 8, 32  # the smallest and the largest batch of recipes with `batch_size: auto`
RISE = 0.3  # fraction of steps in which the learning rate rises; the default in OneCycleLR
RMS_DECAY = 0.9  # decay of RMSProp's mean square, as in the EfficientNet paper


def make_optimizer(model: nn.Module, recipe: Recipe, *, fused: bool = False) -> Optimizer:
    """Create the recipe's optimizer for all parameters that are not frozen.

    Args:
        model: the network.
        recipe: determines the algorithm and its settings.
        fused: whether one kernel updates all weights, where PyTorch has one.

    Raises:
        TypeError: the recipe sets `layer_decay`, but the network is not from this package.
    """
    weights = _trained_groups(model, recipe)
    rate, decay, eps = recipe.learning_rate, recipe.weight_decay, recipe.epsilon
    kind: dict[str, Any] = {"weight_decay": decay, "fused": fused or None}
    if recipe.optimizer == "sgd":
        return SGD(weights, rate, recipe.momentum, nesterov=recipe.nesterov, **kind)
    if recipe.optimizer == "adam":
        return Adam(weights, rate, eps=eps, **kind)
    if recipe.optimizer == "adamw":
        return AdamW(weights, rate, eps=eps, **kind)
    return RMSprop(weights, rate, RMS_DECAY, eps, decay, recipe.momentum)


def _trained_groups(model: nn.Module, recipe: Recipe) -> list[Any]:
    """Return the parameters to train, in one group for each learning rate."""
    if recipe.layer_decay == 1 or not recipe.learning_rate:
        return [p for p in model.parameters() if p.requires_grad]
    groups = param_groups(model, recipe.learning_rate, 0.0, recipe.layer_decay)  # type: ignore[arg-type]
    by_rate: dict[float, list[nn.Parameter]] = {}
    for group in reversed(groups):  # the head first
        trained = [p for p in group["params"] if p.requires_grad]
        by_rate.setdefault(group["lr"], []).extend(trained)
    return [{"params": params, "lr": rate} for rate, params in by_rate.items() if params]


def peak_rate(optimizer: Optimizer) -> float:
    """Return the highest learning rate of an optimizer's groups: the head's, with layer decay."""
    return float(max(group["lr"] for group in optimizer.param_groups))


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state, which may have been saved on another device.

    Which of PyTorch's implementations updates the weights depends on the device.
    """
    for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        group |= {key: own[key] for key in ("foreach", "fused") if key in own}
    optimizer.load_state_dict(saved)


def batch_size_of(recipe: Recipe, images: int, processes: int = 1) -> int:
    """Return a recipe's batch size, over all processes, for a number of training images."""
    if isinstance(recipe.batch_size, int):
        return recipe.batch_size
    low, high = AUTO_BATCH
    size = min(max(images // 20, low), high)
    return ceil(size / processes) * processes


def batches_per_step(recipe: Recipe, images: int, processes: int = 1) -> int:
    """Return the number of batches per optimizer step, which is at most those in an epoch."""
    batches = max(1, images // batch_size_of(recipe, images, processes))
    return min(recipe.accumulate_grad_batches, batches)


def steps_per_epoch(recipe: Recipe, images: int, processes: int = 1) -> int:
    """Return the number of optimizer steps per epoch, for a number of training images."""
    batches = max(1, images // batch_size_of(recipe, images, processes))
    return batches // batches_per_step(recipe, images, processes)


def number_of_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """Return a recipe's number of epochs, derived from its number of steps if that is set."""
    if recipe.num_steps is None:
        return recipe.num_epochs
    if not isinstance(recipe.num_steps, int):  # auto
        return max(AUTO_EPOCHS, ceil(MIN_STEPS / steps_per_epoch))
    return max(1, round(recipe.num_steps / steps_per_epoch))


def count_steps(recipe: Recipe, images: int, processes: int = 1) -> int:
    """Return the number of optimizer steps in all stages, for a number of training images."""
    steps = ((stage, steps_per_epoch(stage, images, processes)) for stage in recipe.stages())
    return sum(count * number_of_epochs(stage, count) for stage, count in steps)


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Create the recipe's schedule; call its `step` after every optimizer step."""
    num_epochs = number_of_epochs(recipe, steps_per_epoch)
    total = num_epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)
    if recipe.schedule == "one-cycle":
        # OneCycleLR divides by the number of rising steps minus one.
        rise = max(warmup, 1.5) / total if warmup else RISE
        peaks = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, peaks, total_steps=total, pct_start=rise)
    schedule: LRScheduler
    if recipe.schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, total - warmup)
    elif recipe.schedule == "linear":
        schedule = LinearLR(optimizer, 1.0, 0.0, total - warmup)
    elif recipe.schedule == "constant":
        schedule = ConstantLR(optimizer, factor=1.0)
    else:
        epochs = recipe.step_epochs
        if not isinstance(epochs, list):
            epochs = [epochs * (i + 1) for i in range(int(num_epochs / epochs))]
        milestones = [round(epoch * steps_per_epoch) - warmup for epoch in epochs]
        schedule = MultiStepLR(optimizer, milestones, recipe.step_factor)
    if warmup:
        rising = LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
        return SequentialLR(optimizer, [rising, schedule], [warmup])
    return schedule
