"""Optimizers and learning rates of a recipe, all of them PyTorch's."""

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

from cnnarch.training.recipe import Recipe

__all__ = ["make_optimizer", "make_schedule", "number_of_epochs"]

CLIMB = 0.3  # share of one-cycle's steps that climb, as in its paper's follow-ups
RMS_DECAY = 0.9  # of RMSProp's running mean of squares, as the EfficientNet paper trains


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over the weights that are to be trained."""
    weights = [p for p in model.parameters() if p.requires_grad]
    rate, decay, eps = recipe.learning_rate, recipe.weight_decay, recipe.epsilon
    if recipe.optimizer == "sgd":
        return SGD(weights, rate, recipe.momentum, weight_decay=decay, nesterov=recipe.nesterov)
    if recipe.optimizer == "adam":
        return Adam(weights, rate, eps=eps, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return AdamW(weights, rate, eps=eps, weight_decay=decay)
    return RMSprop(weights, rate, RMS_DECAY, eps, decay, recipe.momentum)


def number_of_epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    """Epochs of a recipe whose length may be given in steps."""
    if recipe.num_steps is None:
        return recipe.num_epochs
    return max(1, round(recipe.num_steps / steps_per_epoch))


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """The recipe's schedule, to be stepped after every optimizer step."""
    num_epochs = number_of_epochs(recipe, steps_per_epoch)
    total = num_epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)
    if recipe.schedule == "one-cycle":
        # OneCycleLR divides by the steps of the climb less one.
        climb = max(warmup, 1.5) / total if warmup else CLIMB
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=total, pct_start=climb)
    schedule: LRScheduler
    if recipe.schedule == "cosine":
        schedule = CosineAnnealingLR(optimizer, total - warmup)
    elif recipe.schedule == "linear":
        schedule = LinearLR(optimizer, 1.0, 0.0, total - warmup)
    elif recipe.schedule == "constant":
        schedule = ConstantLR(optimizer, factor=1.0)
    else:
        every = recipe.step_epochs
        if isinstance(every, list):
            epochs: list[float] = [*every]
        else:
            epochs = [every * (i + 1) for i in range(int(num_epochs / every))]
        milestones = [round(epoch * steps_per_epoch) - warmup for epoch in epochs]
        schedule = MultiStepLR(optimizer, milestones, recipe.step_factor)
    if warmup:
        climbing = LinearLR(optimizer, 1 / (warmup + 1), total_iters=warmup)
        return SequentialLR(optimizer, [climbing, schedule], [warmup])
    return schedule
