"""Load a checkpoint into an existing network, either completely or not at all."""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.blocks._wrappers import is_sharded, unwrapped
from cnnarch.facts.options import find_conflicts
from cnnarch.facts.sheets import near_twins
from cnnarch.weights.channels import Adapt, adapt_input, adapt_preprocessing, first_convolutions
from cnnarch.weights.checkpoint import Checkpoint, CheckpointSource, read_checkpoint
from cnnarch.weights.config import Config
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.layouts import describe_mismatches, find_match, find_mismatches
from cnnarch.weights.matching import CNNARCH, Match, classifier_names, their_classifiers
from cnnarch.weights.recorded import (
    find_changes,
    set_eps,
    warn_if_edited,
    warn_if_unrecorded,
)


@dataclass(frozen=True)
class LoadReport:
    """What `load` did besides copying values.

    Args:
        fresh: names of tensors that were not loaded and keep the network's values: classifiers
            with a different number of classes, and the first convolution if `small_images` made
            its kernel smaller.
        adapted: names of tensors that were converted to fit: the first convolution, and the
            classifier's bias, which is zero if the checkpoint has none.
        changed_options: network options that were changed to the values that the checkpoint
            requires, with their new values.
        dropped: names of the checkpoint's tensors that were not loaded because they belong to a
            head that the network was built without, or to other parts than the network, such as a
            loss in a Lightning module.
    """

    fresh: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    changed_options: Mapping[str, Any] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def load(model: nn.Module, source: CheckpointSource, *, adapt: Adapt = "mean") -> LoadReport:
    """Load a checkpoint from any supported library into an existing network.

    The checkpoint is read and checked before the first value changes. Parameters remain the
    same objects, so optimizers stay valid. The network keeps its device and dtype. Its
    preprocessing and class names become those that the checkpoint records, or None.

    Args:
        model: a cnnarch network, or any module if `source` is a state dict with the same names. It
            may be compiled, sharded by FSDP2, or wrapped in (Distributed)DataParallel.
        source: any value that a builder's `weights=` accepts.
        adapt: how to convert the first convolution if the number of image channels differs:
            "mean", "repeat", or "random", which keeps the network's values.

    Raises:
        WeightsError: the checkpoint cannot be found, does not fit, or requires an option that
            cannot be changed after building. In that case, the network is left unchanged.

    >>> import cnnarch
    >>> load(cnnarch.resnet18(num_classes=10), cnnarch.resnet18().state_dict()).fresh
    ('head.classifier.weight', 'head.classifier.bias')
    """
    if adapt not in ("mean", "repeat", "random"):
        raise ValueError(f"adapt must be 'mean', 'repeat' or 'random', got {adapt!r}")
    model = unwrapped(model)
    checkpoint = read_checkpoint(source, getattr(model, "builder", None))
    found = match_checkpoint(checkpoint, model)
    changed, inner = {}, {}
    is_network = hasattr(model, "builder")
    if is_network:
        required = found.layout.required_options(model) | checkpoint.required_options
        changed = find_conflicts(model, required)
    else:
        inner = _inner_changes(model, checkpoint, found.prefix)
    for name in changed.keys() - {"norm_eps"}:
        raise WeightsError(
            f"{checkpoint.label} requires a network built with {name}={changed[name]!r}"
        )
    if is_network and found.layout is CNNARCH and checkpoint.config.builder is not None:
        _find_changes(model, checkpoint.config, checkpoint.label)
    tensors, report = convert_tensors(checkpoint, found, model, adapt)
    warn_if_ambiguous(checkpoint, found, model)
    # Nothing below can fail, so either all values change or none do.
    for name, tensor in tensors.items():
        set_tensor(model, name, tensor)
    for path, changes in {"": changed, **inner}.items():
        set_eps(model.get_submodule(path), changes)
    record_metadata(model, checkpoint, replace(report, changed_options=changed), adapt)
    changed |= {f"{path}.{k}": v for path, changes in inner.items() for k, v in changes.items()}
    return replace(report, changed_options=changed)


def _find_changes(model: nn.Module, recorded: Config, label: str) -> dict[str, Any]:
    """Return the options that must change to fit a description, or raise WeightsError."""
    try:
        return find_changes(model, asdict(recorded), label) or {}
    except RuntimeError as error:
        raise WeightsError(str(error)) from error


def _inner_changes(
    model: nn.Module, checkpoint: Checkpoint, prefix: str
) -> dict[str, dict[str, Any]]:
    """Return the options that must change in networks inside a user's module, by path.

    Raises:
        WeightsError: an option cannot be changed.
    """
    changes: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        if not path or not hasattr(module, "builder"):
            continue
        recorded = checkpoint.recorded.get(f"{prefix}{path}")
        if recorded is None:
            warn_if_unrecorded(module, checkpoint.label)
            continue
        changes[path] = _find_changes(module, recorded, f"{checkpoint.label}: {path}")
        warn_if_edited(module, recorded.edits, checkpoint.label)
    return changes


def match_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, options: Mapping[str, Any] | None = None
) -> Match:
    """Find the layout of a checkpoint; `find_match` explains `options`."""
    builder, architecture = getattr(model, "builder", None), checkpoint.config.architecture
    recorded = checkpoint.config.builder
    if recorded != builder and None not in (recorded, builder):
        raise WeightsError(f"{checkpoint.label} is of {recorded}, not of {builder}")
    for near in near_twins(builder) if builder else ():
        if near.hidden and near.name == architecture:
            raise WeightsError(
                f"{checkpoint.label} is {near.library}'s {near.name}, which is not {near.builder} "
                f"although its tensors have the same names. {near.reason}"
            )
    layout = checkpoint.config.layout
    return find_match(checkpoint.tensors, model, layout, options=options, architecture=architecture)


def warn_if_ambiguous(checkpoint: Checkpoint, found: Match, model: nn.Module) -> None:
    """Warn if the checkpoint may be for a different network whose tensors have the same names."""
    if found.layout is CNNARCH and checkpoint.config.builder is None:
        warn_if_unrecorded(model, checkpoint.label)
    warn_if_edited(model, checkpoint.config.edits, checkpoint.label)
    for other in found.alternatives:
        warnings.warn(
            f"{checkpoint.label} is assumed to need {found.layout.required_options(model)}, but "
            f"networks like {other.library}'s {other.architectures} need "
            f"{other.required_options(model)} and have tensors with the same names. If you know "
            "the right options, pass them to the builder",
            stacklevel=4,
        )


def convert_tensors(
    checkpoint: Checkpoint, found: Match, model: nn.Module, adapt: Adapt = "mean"
) -> tuple[dict[str, Tensor], LoadReport]:
    """Convert the tensors of a checkpoint to the network's shapes, dtypes and devices.

    Raises:
        WeightsError: tensors are missing, unexpected, or have the wrong shape or kind of dtype.
    """
    expected = model.state_dict()
    tensors, missing = dict(found.tensors), dict(found.missing)
    fresh: list[str] = []
    adapted = [name for name in found.zeros if name in tensors]
    for classifier in classifier_names(model):
        layer = [name for name in expected if name.startswith(f"{classifier}.")]
        if _has_other_classes(layer, tensors, expected):
            fresh += layer
    for first in filter(tensors.__contains__, first_convolutions(model)):
        if _has_larger_kernel(tensors[first], expected[first], model):
            fresh.append(first)
        elif _has_other_channels(tensors[first], expected[first]):
            if adapt == "random":
                fresh.append(first)
            else:
                tensors[first] = adapt_input(tensors[first], expected[first].shape[1], adapt)
                adapted.append(first)
    for name in fresh:
        tensors.pop(name, None)
        missing.pop(name, None)
    mismatches = find_mismatches(replace(found, tensors=tensors, missing=missing), model)
    if any(mismatches.values()):
        subject = f"{checkpoint.label} ({found.layout.library})"
        message = describe_mismatches(subject, model, mismatches)
        if _is_head_alone(mismatches, their_classifiers(model, found.layout)):
            message += "\nA network with num_classes=0 can load everything but the classifier"
        elif mismatches["missing"] and "deploy" in getattr(model, "options", {}):
            message += (
                "\nThe network has branches if deploy=False, and none if deploy=True; "
                "cnnarch.inference.fuse merges the branches of a network"
            )
        raise WeightsError(message)
    adapted = [name for name in adapted if name not in fresh]
    report = LoadReport(tuple(fresh), tuple(adapted), dropped=found.dropped + found.unused)
    return _cast(tensors, expected, copy=checkpoint.shared), report


def set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Set a parameter or buffer in place, or replace it if it is on the meta device."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if is_sharded(old):
        from torch.distributed.tensor import distribute_tensor

        with torch.no_grad():
            old.copy_(distribute_tensor(tensor, old.device_mesh, old.placements))
    elif not old.is_meta:
        old.data = tensor
    elif leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=old.requires_grad)
    else:
        module._buffers[leaf] = tensor


def record_metadata(
    model: Any, checkpoint: Checkpoint, report: LoadReport, adapt: Adapt = "mean"
) -> None:
    """Set the changed options, preprocessing and class names of a cnnarch network."""
    if not hasattr(model, "builder"):
        return
    if report.changed_options:
        model.options = {**model.options, **report.changed_options}
    model.weights_source = ""
    config, classifiers = checkpoint.config, tuple(classifier_names(model))
    model.preprocessing = adapt_preprocessing(config.preprocessing, model.in_channels, adapt)
    is_same_size = config.categories is not None and model.num_classes == len(config.categories)
    is_loaded = not any(name.startswith(classifiers) for name in report.fresh)
    model.categories = config.categories if is_same_size and is_loaded else None


def _is_head_alone(mismatches: Mapping[str, list[str]], classifiers: list[str]) -> bool:
    """Return whether all mismatches are in the classifiers."""
    heads = tuple(f"{name}." for name in classifiers)
    return all(name.startswith(heads) for names in mismatches.values() for name in names)


def _has_other_classes(
    layer: list[str], tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> bool:
    """Return whether a classifier's tensors are all absent or differ only in row count."""
    present = [name for name in layer if name in tensors]
    same_columns = all(tensors[name].shape[1:] == expected[name].shape[1:] for name in present)
    same_shapes = all(tensors[name].shape == expected[name].shape for name in present)
    differs = len(present) == len(layer) and same_columns and not same_shapes
    return bool(layer) and (not present or differs)


def _has_other_channels(tensor: Tensor, expected: Tensor) -> bool:
    same_rest = tensor.shape[:1] + tensor.shape[2:] == expected.shape[:1] + expected.shape[2:]
    return tensor.dim() == 4 and same_rest and tensor.shape[1] != expected.shape[1]


def _has_larger_kernel(tensor: Tensor, expected: Tensor, model: nn.Module) -> bool:
    """Return whether the network, but not the checkpoint, is for small images."""
    small = getattr(model, "options", {}).get("small_images", False)
    return bool(small) and tensor.dim() == 4 and tensor.shape[2:] > expected.shape[2:]


def _cast(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], copy: bool
) -> dict[str, Tensor]:
    """Convert to the network's dtype, device and memory format, without sharing storage."""
    converted, seen = {}, set()
    for name, tensor in tensors.items():
        old, storage = expected[name], tensor.untyped_storage().data_ptr()
        device = torch.get_default_device() if old.is_meta else old.device
        new = tensor.to(device, old.dtype, copy=copy or storage in seen)
        seen.add(storage)
        channels_last = old.dim() == 4 and old.is_contiguous(memory_format=torch.channels_last)
        keep_format = channels_last and not old.is_contiguous()
        converted[name] = new.contiguous(
            memory_format=torch.channels_last if keep_format else torch.contiguous_format
        )
    return converted
