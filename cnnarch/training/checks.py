"""Check that a network, a data set, a recipe and the devices fit together, before training."""

import warnings

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.freezing import HEAD, check_stage, temporarily_frozen
from cnnarch.contract.meta import without_memory
from cnnarch.contract.trunk import as_trunk
from cnnarch.folders import counted
from cnnarch.training.classes import weights_of_classes
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.machine import Machine, is_first_process
from cnnarch.training.optimization import (
    MIN_STEPS,
    batch_size_of,
    batches_per_step,
    count_steps,
    make_optimizer,
)
from cnnarch.training.recipe import Recipe

ARGUMENTS = {
    "model": (nn.Module, "a network, such as build_model('resnet18', data)"),
    "data": (ImageData, "the result of load_data, such as load_data('folder:photos')"),
    "recipe": (Recipe | None, "a Recipe, such as Recipe(num_epochs=5), or None"),
    "machine": (Machine, "a Machine, such as Machine(devices=2)"),
}
"""The types of the arguments of `fit`, `train` and `build_model`, also in words."""


def check_types(**arguments: object) -> None:
    """Raise TypeError if an argument in `ARGUMENTS` has another type."""
    for name, value in arguments.items():
        kind, allowed = ARGUMENTS[name]
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {allowed}, got {type(value).__name__}")


def check_fits(model: nn.Module, images: ImageSet) -> None:
    """Check that a network's classes, channels and input size match the images.

    Networks from other packages do not store these values and fail in the first training step.

    Raises:
        ValueError: the network is incompatible with the images.
    """
    if len(images.classes) < 2:
        raise ValueError(
            f"training and evaluation require at least two classes, got {list(images.classes)}; "
            "Predictor and `cnnarch predict` also accept networks with one class"
        )
    needs = {"num_classes": len(images.classes), "in_channels": images.channels}
    for name, needed in needs.items():
        if getattr(model, name, needed) != needed:
            raise ValueError(
                f"the data set requires {name}={needed}, but the network has {getattr(model, name)}"
            )
    size, minimum = images.preprocessing.crop_size, getattr(model, "min_input_size", 1)
    fixed = getattr(model, "fixed_input_size", False)
    if size < minimum or (size != minimum and fixed):
        allowed = f"exactly {minimum}" if fixed else f"at least {minimum}"
        raise ValueError(f"the network's input size must be {allowed} pixels, got {size}")


def check_run(model: nn.Module, data: ImageData, recipe: Recipe, machine: Machine) -> None:
    """Check that a network can be trained on a data set with a recipe and these devices.

    Raises:
        TypeError: the recipe freezes stages or has learning rates for stages, but the network is
            not from this package.
        ValueError: the network is incompatible with the data or the recipe, or the devices are not
            available.
    """
    check_fits(model, data.train)
    check_stages(model, data.train, recipe)
    machine.check()
    for stage in recipe.stages():
        check_images(data, stage, machine.devices * machine.num_nodes)
    check_batches(model, data, recipe, machine)


def check_images(data: ImageData, recipe: Recipe, processes: int) -> None:
    """Check that a stage has enough training and validation images.

    Raises:
        ValueError: the recipe requires validation images, but there are none; or batches or images
            cannot be divided among the processes.
    """
    images, size = data.training_size(recipe.validation), len(data.train)
    if (recipe.early_stopping or recipe.keep_best) and images == size and not data.validation:
        raise ValueError(
            "early_stopping and keep_best require validation images, but validation="
            f"{recipe.validation} selects none of the {size} training images"
        )
    batch_size = batch_size_of(recipe, images, processes)
    if batch_size % processes:
        raise ValueError(
            f"batch_size must be a multiple of {processes}, the number of processes, "
            f"got {batch_size}"
        )
    if images < processes:
        raise ValueError(
            f"{counted(images, 'training image')} cannot be divided among {processes} processes; "
            f"set devices to at most {images}"
        )


def warn_if_short(data: ImageData, recipe: Recipe, machine: Machine) -> None:
    """Warn about a run of so few steps that a network hardly learns."""
    images = data.training_size(recipe.validation)
    processes = machine.devices * machine.num_nodes
    steps = count_steps(recipe, images, processes)
    batch = min(batch_size_of(recipe, images, processes), images)
    if steps < MIN_STEPS and is_first_process():
        warnings.warn(
            f"this run takes only {steps} step{'s' * (steps != 1)} ({images} training images in "
            f"batches of {batch}); networks usually need at least {MIN_STEPS}: set "
            "num_steps: auto, more epochs or a smaller batch_size",
            stacklevel=3,
        )


def warn_if_accumulation_is_cut(data: ImageData, recipe: Recipe, machine: Machine) -> None:
    """Warn if a step should accumulate more batches than an epoch has."""
    count = (data.training_size(recipe.validation), machine.devices * machine.num_nodes)
    for stage in recipe.stages():
        wanted, batches = stage.accumulate_grad_batches, batches_per_step(stage, *count)
        if batches < wanted and is_first_process():
            warnings.warn(
                f"accumulate_grad_batches={wanted} is reduced to {batches}, because an epoch has "
                f"only {counted(batches, 'batch', 'batches')} ({count[0]:,} training images in "
                f"batches of {batch_size_of(stage, *count)}): set it to at most {batches}, or "
                "choose a smaller batch_size",
                stacklevel=3,
            )


def check_stages(model: nn.Module, images: ImageSet, recipe: Recipe) -> None:
    """Check that the network supports every stage of a recipe.

    Raises:
        TypeError: the recipe freezes stages or has learning rates for stages, but the network is
            not from this package.
        ValueError: the network does not contain a stage to freeze, a stage of the recipe would
            train nothing, or the data set does not contain a class that has a weight.
    """
    for number, stage in enumerate(recipe.stages(), 1):
        last = last_frozen(model, stage)
        if last not in (None, HEAD):
            check_stage(model, last)
        if stage.layer_decay != 1:
            as_trunk(model)
        if why := _why_nothing_trains(model, stage):
            raise ValueError(f"stage {number} of the recipe would train nothing: {why}")
        make_optimizer(model, stage)
        weights_of_classes(stage, images)


def _why_nothing_trains(model: nn.Module, recipe: Recipe) -> str:
    """Return why a stage of a recipe trains no parameter; empty if it trains any."""
    if not any(p.requires_grad for p in model.parameters()):
        return "no parameter of the network requires gradients (see cnnarch.unfreeze)"
    try:
        with temporarily_frozen(model, last_frozen(model, recipe), recipe.freeze_norm):
            if any(p.requires_grad for p in model.parameters()):
                return ""
    except ValueError:  # the classifier has no parameters
        pass
    rest = "the classifier layer has" if recipe.freeze is True else "later layers have"
    return f"freeze={recipe.freeze!r} freezes everything else and {rest} no parameters"


def last_frozen(model: nn.Module, recipe: Recipe) -> int | str | None:
    """Return the last stage that a recipe freezes, or None."""
    if recipe.freeze == "early":
        half = len(as_trunk(model).stage_names) // 2
        return half - 1 if half else None
    if isinstance(recipe.freeze, str):
        return recipe.freeze
    return HEAD if recipe.freeze else None


def check_batches(model: nn.Module, data: ImageData, recipe: Recipe, machine: Machine) -> None:
    """Check that every BatchNorm sees more than one value per channel, as training requires.

    Raises:
        ValueError: a process trains on one image at a time, whose map has a single pixel.
    """
    network, processes = unwrapped(model), machine.devices * machine.num_nodes
    count = data.training_size(recipe.validation)
    for stage in recipe.stages():
        batch_size = batch_size_of(stage, count, processes)
        images = min(batch_size, count) // processes
        if images > 1 or not isinstance(network, ImageClassifier):
            continue
        size = data.preprocessing.crop_size
        with temporarily_frozen(network, last_frozen(network, stage), stage.freeze_norm):
            name = _norm_of_one_pixel(network, size)
        if name:
            raise ValueError(
                f"{name} is a BatchNorm, which cannot be trained on a single value per channel: "
                f"each step trains on one image{' per process' * (processes > 1)} (batch_size="
                f"{batch_size}, {count} training images), of which one pixel is left there at an "
                f"input size of {size}. Use at least two images per step, a larger "
                "image_resolution, or freeze_norm: true"
            )


class _OneValueError(Exception):
    """Raised by a BatchNorm with a single value per channel."""


def _norm_of_one_pixel(network: ImageClassifier, size: int) -> str | None:
    """Return the path of a BatchNorm in training mode whose map has one pixel, or None."""

    def check(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].numel() == inputs[0].shape[1]:
            raise _OneValueError(names[norm])

    copied = without_memory(network).train()
    names = {module: name for name, module in copied.named_modules()}
    for norm in names:
        if isinstance(norm, _BatchNorm):
            norm.register_forward_pre_hook(check)
    try:
        copied(torch.empty(1, network.in_channels, size, size, device="meta"))
    except _OneValueError as error:
        return str(error)
    return None
