"""Bring a checkpoint into a network: all of it, or nothing."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.facts.sheets import near_twins
from cnnarch.weights.channels import Adapt, adapt_input, first_convolution
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.layouts import match, problems, report
from cnnarch.weights.names import Match, classifier_names
from cnnarch.weights.options import contradicted, norms
from cnnarch.weights.source import Checkpoint, Source, read_checkpoint

__all__ = ["Fit", "LoadReport", "fit", "load", "put", "recognise", "remember", "warn_of_rivals"]

_PREFIXES = ("module.", "_orig_mod.", "model.")
_AVERAGES = "n_averaged"  # how many networks torch's AveragedModel has averaged


@dataclass(frozen=True)
class LoadReport:
    """What loading did besides copying values.

    Args:
        fresh: names of tensors that were not loaded and are as the network had them: classifiers
            of another number of classes, and the first convolution where `small_images` made
            its kernel smaller.
        adapted: names of tensors that were changed to fit: the first convolution.
        changed_options: options of the network that the checkpoint needs otherwise and that were
            set, with their new values.
    """

    fresh: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    changed_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """A checkpoint made to fit: tensors by our names, of the network's shapes."""

    tensors: dict[str, Tensor]
    fresh: tuple[str, ...]
    adapted: tuple[str, ...]


def load(model: nn.Module, source: Source, *, adapt: Adapt = "mean") -> LoadReport:
    """Load a checkpoint, anyone's, into a network that is built.

    Everything is read and checked before the first value changes. Parameters stay the same
    objects, so an optimizer goes on with them; device and dtype stay the network's.

    Args:
        model: a cnnarch network, or any module whose own state dict `source` is.
        source: what `weights=` of a builder takes.
        adapt: how the first convolution meets images of another number of channels: "mean",
            "repeat", or "random", which leaves it as it is.

    Raises:
        WeightsError: the checkpoint cannot be found or does not fit, or needs an option that only
            building can set; the network is then as it was.

    >>> import cnnarch
    >>> load(cnnarch.resnet18(num_classes=10), cnnarch.resnet18().state_dict()).fresh
    ('head.classifier.weight', 'head.classifier.bias')
    """
    if adapt not in ("mean", "repeat", "random"):
        raise ValueError(f"adapt must be 'mean', 'repeat' or 'random', got {adapt!r}")
    checkpoint = read_checkpoint(source, getattr(model, "builder", None))
    found = recognise(checkpoint, model)
    needs = found.layout.needs(model) | checkpoint.needs
    changed = contradicted(model, needs)
    for name in changed.keys() - {"norm_eps"}:
        raise WeightsError(
            f"{checkpoint.label} needs a network built with {name}={changed[name]!r}"
        )
    fitted = fit(checkpoint, found, model, adapt)
    warn_of_rivals(checkpoint, found, model)
    # From here on nothing can fail: values change together or not at all.
    for name, tensor in fitted.tensors.items():
        put(model, name, tensor)
    for norm in norms(model) if changed else ():
        norm.eps = changed["norm_eps"]
    remember(model, checkpoint, fitted, changed)
    return LoadReport(fitted.fresh, fitted.adapted, changed)


def recognise(
    checkpoint: Checkpoint, model: nn.Module, options: Mapping[str, Any] | None = None
) -> Match:
    """Find whose names a checkpoint has; `options` as in `match`."""
    builder = getattr(model, "builder", None)
    for near in near_twins(builder) if builder else ():
        if not near.hidden or near.name != checkpoint.architecture:
            continue
        raise WeightsError(
            f"{checkpoint.label} is {near.library}'s {near.name}, which is not {near.builder} "
            f"although its tensors are named alike. {near.reason}"
        )
    tensors = _without_prefixes(checkpoint.tensors, list(model.state_dict()))
    return match(
        tensors,
        model,
        checkpoint.layout,
        options=options,
        architecture=checkpoint.architecture,
    )


def warn_of_rivals(checkpoint: Checkpoint, found: Match, model: nn.Module) -> None:
    """Say that a checkpoint might be of another network, whose tensors have the same names."""
    for rival in found.rivals:
        warnings.warn(
            f"{checkpoint.label} is taken to need {found.layout.needs(model)}, but networks like "
            f"{rival.library}'s {rival.builders} need {rival.needs(model)} and have tensors of "
            "the same names: build with the options that you know it to have",
            stacklevel=4,
        )


def fit(checkpoint: Checkpoint, found: Match, model: nn.Module, adapt: Adapt = "mean") -> Fit:
    """Give the tensors of a checkpoint the network's shapes, dtypes and devices.

    Raises:
        WeightsError: tensors are missing, too many, of another shape or kind.
    """
    own = model.state_dict()
    tensors, missing = dict(found.tensors), dict(found.missing)
    fresh: list[str] = []
    for classifier in classifier_names(model):
        layer = [name for name in own if name.startswith(f"{classifier}.")]
        if _of_other_classes(layer, tensors, own):
            fresh += layer
    first, adapted = first_convolution(model), []
    if first in tensors and _of_larger_kernel(tensors[first], own[first], model):
        fresh.append(first)
    elif first in tensors and _of_other_channels(tensors[first], own[first]):
        if adapt == "random":
            fresh.append(first)
        else:
            tensors[first] = adapt_input(tensors[first], own[first].shape[1], adapt)
            adapted.append(first)
    for name in fresh:
        tensors.pop(name, None)
        missing.pop(name, None)
    faults = problems(replace(found, tensors=tensors, missing=missing), model)
    if any(faults.values()):
        raise WeightsError(report(f"{checkpoint.label} ({found.layout.library})", faults))
    return Fit(_take(tensors, own, checkpoint.ours), tuple(fresh), tuple(adapted))


def put(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a parameter or buffer the values of `tensor`; it stays the same object if it can."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if not old.is_meta:
        old.data = tensor
    elif leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        module._buffers[leaf] = tensor


def remember(model: Any, checkpoint: Checkpoint, fitted: Fit, changed: Mapping[str, Any]) -> None:
    """Note on a network what its weights bring: options, preprocessing, names of the classes."""
    if not hasattr(model, "builder"):
        return
    if changed:
        model.options = {**model.options, **changed}
    model.preprocessing = checkpoint.preprocessing
    named = checkpoint.categories is not None and model.num_classes == len(checkpoint.categories)
    kept = not any(name.startswith(tuple(classifier_names(model))) for name in fitted.fresh)
    model.categories = checkpoint.categories if named and kept else None


def _without_prefixes(tensors: dict[str, Tensor], own: list[str]) -> dict[str, Tensor]:
    """Take off what wrappers put before every name: DataParallel, compile, Lightning."""
    for prefix in _PREFIXES * 2:  # a compiled network in DataParallel has two
        bare = {k.removeprefix(prefix): t for k, t in tensors.items() if k != _AVERAGES}
        wrapped = all(k.startswith(prefix) for k in tensors if k != _AVERAGES)
        if wrapped and not any(name.startswith(prefix) for name in own):
            tensors = bare
    return tensors


def _of_other_classes(
    layer: list[str], tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> bool:
    """Whether a classifier is for other classes: its tensors are absent, or of another length."""
    there = [name for name in layer if name in tensors]
    alike = all(tensors[name].shape[1:] == own[name].shape[1:] for name in there)
    same = all(tensors[name].shape == own[name].shape for name in there)
    return bool(layer) and (not there or (len(there) == len(layer) and alike and not same))


def _of_other_channels(tensor: Tensor, own: Tensor) -> bool:
    rest = (tensor.shape[:1] + tensor.shape[2:]) == (own.shape[:1] + own.shape[2:])
    return tensor.dim() == 4 and rest and tensor.shape[1] != own.shape[1]


def _of_larger_kernel(tensor: Tensor, own: Tensor, model: nn.Module) -> bool:
    """Whether the first convolution is the usual one and the network is for small images."""
    small = getattr(model, "options", {}).get("small_images", False)
    return bool(small) and tensor.dim() == 4 and tensor.shape[2:] > own.shape[2:]


def _take(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], ours: bool
) -> dict[str, Tensor]:
    """Tensors as the network can hold them: its dtype, device and memory format, not shared."""
    taken, seen = {}, set()
    for name, tensor in tensors.items():
        old, storage = own[name], tensor.untyped_storage().data_ptr()
        shared = not ours or storage in seen
        seen.add(storage)
        device = torch.get_default_device() if old.is_meta else old.device
        new = tensor.to(device, old.dtype, copy=shared)
        channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
        only = channels_last and not old.is_contiguous()
        taken[name] = new.contiguous(
            memory_format=torch.channels_last if only else torch.contiguous_format
        )
    return taken
