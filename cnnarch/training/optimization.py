"""PyTorch optimizers and learning rate schedules for a recipe."""

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

RISE = 0.3  # fraction of steps in which the learning rate rises; the default in OneCycleLR
RMS_DECAY = 0.9  # decay of RMSProp's mean square, as in the EfficientNet paper


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Create the recipe's optimizer for all parameters that are not frozen."""
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
    """Return a recipe's number of epochs, derived from its number of steps if that is set."""
    if recipe.num_steps is None:
        return recipe.num_epochs
    return max(1, round(recipe.num_steps / steps_per_epoch))


def make_schedule(optimizer: Optimizer, recipe: Recipe, steps_per_epoch: int) -> LRScheduler:
    """Create the recipe's schedule; call its `step` after every optimizer step."""
    num_epochs = number_of_epochs(recipe, steps_per_epoch)
    total = num_epochs * steps_per_epoch
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total - 1)
    if recipe.schedule == "one-cycle":
        # OneCycleLR divides by the number of rising steps minus one.
        rise = max(warmup, 1.5) / total if warmup else RISE
        return OneCycleLR(optimizer, recipe.learning_rate, total_steps=total, pct_start=rise)
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
