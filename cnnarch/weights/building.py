"""Build a network on the meta device and load a checkpoint's tensors without copying them."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from cnnarch.blocks.head import ClassifierHead
from cnnarch.facts.builders import option_parameters
from cnnarch.facts.options import find_conflicts
from cnnarch.weights.channels import first_convolutions
from cnnarch.weights.checkpoint import Checkpoint, CheckpointSource, read_checkpoint
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.loading import (
    convert_tensors,
    match_checkpoint,
    record_metadata,
    set_tensor,
    warn_if_ambiguous,
)
from cnnarch.weights.matching import Match, their_classifiers
from cnnarch.weights.rebuilding import convert

P = ParamSpec("P")
Network = TypeVar("Network", bound=nn.Module)


def build_with_weights(
    name: str,
    weights: CheckpointSource,
    network: Callable[P, Network],
    *args: P.args,
    **options: P.kwargs,
) -> Network:
    """Construct `network(*args, **options)` to fit a checkpoint, and load the checkpoint.

    Options that the caller does not pass come from the checkpoint: the number of classes and
    channels, and the options that its tensors require. A different `num_classes` creates
    new classifiers, and a different `in_channels` adapts the convolutions that read the image.

    Args:
        name: name of the builder, recorded with the options.
        weights: a tag, a path, a hub name, a URL, a catalog entry or a state dict.
        network: the class, whose keyword-only arguments are the options.
        *args: positional arguments for the class.
        **options: the options that the caller passed to the builder.

    Raises:
        WeightsError: the checkpoint cannot be read, does not fit, or requires a different
            value for an option that the caller passed.
    """
    checkpoint = read_checkpoint(weights, name)
    known = option_parameters(network)

    def build(options: Mapping[str, Any]) -> tuple[Any, Match]:
        with torch.device("meta"):
            model: Any = network(*args, **options)
        model.builder = name
        model.options = {option: model.options[option] for option in known}
        convert(model, checkpoint.config.conversions)
        return model, match_checkpoint(checkpoint, model, options)

    _check_given(checkpoint, checkpoint.required_options, options)
    stored = {k: v for k, v in checkpoint.config.options.items() if k in known}
    given = {**stored, **options}
    if "deploy" in known and "deploy" not in given:
        given = _find_form(build, given)
    model, found = build(given)
    warn_if_ambiguous(checkpoint, found, model)
    required = found.layout.required_options(model) | checkpoint.required_options
    _check_given(checkpoint, required, options)
    wanted = {**find_conflicts(model, required), **_find_sizes(found, model)}
    more = {k: v for k, v in wanted.items() if k in known and k not in options}
    if more:
        given |= more
        model, found = build(given)
    _check_built(checkpoint, model, required)
    fresh = _load(checkpoint, found, model)
    for first in [name for name in first_convolutions(model) if name in fresh]:
        # take the initial values from a network built on a real device
        set_tensor(model, first, network(*args, **given).state_dict()[first])
        warnings.warn(
            f"{first} is newly initialized: small_images=True makes its kernel smaller than in "
            f"{checkpoint.label}",
            stacklevel=4,
        )
    return model


def _find_form(
    build: Callable[[Mapping[str, Any]], tuple[Any, Match]], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of the form that the tensors fit: with branches, or without (`deploy`)."""
    missing = {}
    for deploy in (False, True):
        form = {**given, "deploy": deploy}
        try:
            missing[deploy] = len(build(form)[1].missing)
        except WeightsError:  # no tensor fits
            continue
        if not missing[deploy]:
            return form
    return {**given, "deploy": min(missing, key=lambda deploy: missing[deploy], default=False)}


def _load(checkpoint: Checkpoint, found: Match, model: nn.Module) -> tuple[str, ...]:
    """Set the tensors, initialize new classifiers, and return the names of tensors not loaded."""
    tensors, report = convert_tensors(checkpoint, found, model)
    for name, tensor in tensors.items():
        set_tensor(model, name, tensor)
    for name, module in model.named_modules():
        if isinstance(module, ClassifierHead) and any(
            fresh.startswith(f"{name}.") for fresh in report.fresh
        ):
            module.reset_classifier(module.num_classes)
    for name, tensor in model.state_dict().items():
        if tensor.is_meta and name.endswith("num_batches_tracked"):  # not in old checkpoints
            set_tensor(model, name, torch.zeros(tensor.shape, dtype=tensor.dtype))
    record_metadata(model, checkpoint, report)
    if found.dropped:
        warnings.warn(
            f"{checkpoint.label}: only the tensors whose names start with {found.prefix!r} were "
            f"loaded, not {', '.join(found.dropped[:3])}{', ...' * (len(found.dropped) > 3)}",
            stacklevel=5,
        )
    zeros = set(found.zeros) & set(report.adapted)
    if zeros:
        warnings.warn(
            f"{checkpoint.label} has no {' and '.join(sorted(zeros))}: it is zero", stacklevel=5
        )
    return report.fresh


def _find_sizes(found: Match, model: nn.Module) -> dict[str, int]:
    """Return the checkpoint's class and channel counts where they differ from the network's."""
    sizes: dict[str, int] = {}
    classifier = [t for k, t in found.tensors.items() if k.startswith("head.classifier.")]
    if classifier and classifier[0].dim():
        sizes["num_classes"] = classifier[0].shape[0]
    elif not _has_other_classifier(found, model):
        sizes["num_classes"] = 0
    for first in first_convolutions(model):
        if first in found.tensors and found.tensors[first].dim() == 4:
            sizes["in_channels"] = found.tensors[first].shape[1]
    return {name: size for name, size in sizes.items() if size != getattr(model, name, None)}


def _has_other_classifier(found: Match, model: nn.Module) -> bool:
    """Return whether tensors in place of a classifier belong to layers that cannot be loaded."""
    names = tuple(f"{name}." for name in their_classifiers(model, found.layout))
    return any(name.startswith(names) for name in found.unexpected)


def _check_given(
    checkpoint: Checkpoint, required: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    for name, value in required.items():
        if name in given and given[name] != value:
            raise WeightsError(
                f"{checkpoint.label} needs {name}={value!r}, got {name}={given[name]!r}"
            )


def _check_built(checkpoint: Checkpoint, model: Any, required: Mapping[str, Any]) -> None:
    for name, value in find_conflicts(model, required).items():
        has = repr(model.options[name]) if name in model.options else "no such option"
        raise WeightsError(f"{checkpoint.label} needs {name}={value!r}, but the network has {has}")
