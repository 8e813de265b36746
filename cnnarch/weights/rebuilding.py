"""Check that a builder can recreate a network from its options."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.facts.builders import BUILDERS, option_parameters
from cnnarch.facts.options import FREE
from cnnarch.weights.errors import WeightsError

_MAX_LISTED = 3
_CONVERSIONS = {"dilate": "cnnarch.dilation", "convert_norm": "cnnarch.finetuning"}
_IDENTITIES = (nn.Identity, nn.modules.dropout._DropoutNd)  # in eval mode
# Settings in a module's extra_repr that do not change its output in eval mode.
_TRAINING_SETTINGS = re.compile(r"(, )?\b(momentum|inplace|p|rate)=[^,]*")


def chosen_options(builder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options whose values differ from the builder's defaults."""
    defaults = _build(builder, {}).options
    return {k: v for k, v in options.items() if k not in defaults or defaults[k] != v}


def check_rebuilds(model: Any) -> None:
    """Check that the network's builder recreates its layers from its options.

    Dropout rates, momentum and in-place activations may differ, because they have no effect in
    eval mode.

    Raises:
        WeightsError: no builder created the network, or its layers were changed afterwards. The
            message names the first changed layers.
    """
    builder = getattr(model, "builder", None)
    if builder not in BUILDERS:
        origin = "no builder" if builder is None else f"{builder}, which cnnarch does not define,"
        raise WeightsError(
            "only a network created by a builder such as cnnarch.resnet18 can be saved, because "
            f"the builder rebuilds it; {origin} created this {type(model).__name__}"
        )
    if changes := _describe_changes(model, model.conversions):
        raise WeightsError(
            f"this network cannot be saved: its layers were changed after {builder}() created it, "
            f"so its options cannot rebuild it: {changes}"
        )


def check_exports(model: Any, library: str) -> None:
    """Check that another library's network with the same tensors computes the same outputs.

    Raises:
        WeightsError: the network is dilated, or layers were converted to GroupNorm or changed.
    """
    conversions = getattr(model, "conversions", ())
    if any(name == "dilate" for name, _ in conversions):
        raise WeightsError(
            f"this network is dilated, but {library}'s is not unless it is built that way (for "
            "example with torchvision's replace_stride_with_dilation or timm's output_stride), and "
            "tensors do not show dilation: load `dict(model.state_dict())` into a network without "
            "dilation and export that one"
        )
    same = [conversion for conversion in conversions if conversion == ("convert_norm", "frozen")]
    is_rebuilt = getattr(model, "builder", None) in BUILDERS and hasattr(model, "head")
    if is_rebuilt and (changes := _describe_changes(model, same)):
        raise WeightsError(
            f"this network cannot be exported to {library}: its layers were changed after "
            f"{model.builder}() created it, so {library}'s network computes something else: "
            f"{changes}"
        )


def _describe_changes(model: Any, conversions: Iterable[tuple[str, Any]]) -> str:
    """Describe how the layers differ from those that the builder and the conversions create."""
    rebuilt = _build(model.builder, model.options)
    convert(rebuilt, conversions)
    changes = list(_changed_modules(model, rebuilt)) or list(_changed_tensors(model, rebuilt))
    more = len(changes) - _MAX_LISTED
    return "; ".join(changes[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")


def convert(model: Any, conversions: Iterable[tuple[str, Any]]) -> None:
    """Convert a network as `conversions` records.

    Raises:
        WeightsError: a conversion does not exist or is not possible.
    """
    for name, argument in conversions:
        try:
            function = getattr(import_module(_CONVERSIONS[name]), name)
            function(model, argument)
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"the network does not support {name}({argument!r})") from error


@cache
def hidden_options(builder: str) -> tuple[str, ...]:
    """Return the options that change what a network computes but neither names nor shapes."""
    network, default = BUILDERS[builder].__annotations__["return"], _build(builder, {})
    hints = get_type_hints(network.__init__)

    def is_hidden(name: str) -> bool:
        for value in _alternatives(hints.get(name), default.options[name]):
            try:
                other = _build(builder, {name: value})
            except ValueError:  # this network does not support the value
                continue
            same_tensors = not any(_changed_tensors(other, default))
            if same_tensors and any(_changed_modules(other, default)):
                return True
        return False

    names = [name for name in option_parameters(network) if name not in FREE]
    return tuple(filter(is_hidden, names))


def _alternatives(hint: Any, default: Any) -> Iterable[Any]:
    """Return other values of an option: all of a choice, or the double of a number."""
    if isinstance(default, bool) or hint == bool | None:
        values: Iterable[Any] = (True, False)
    elif isinstance(default, int | float):
        values = (2 * default,)
    else:
        values = get_args(hint)
    return [value for value in values if value != default and not isinstance(value, type)]


def _build(builder: str, options: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return BUILDERS[builder](**options)


def _changed_modules(model: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """Describe each module that is missing, added or different."""
    current, original = dict(model.named_modules()), dict(rebuilt.named_modules())
    changed: list[str] = []
    for path in {**original, **current}:
        if path.startswith(tuple(f"{parent}." for parent in changed)):
            continue
        if path not in current:
            change = "is missing"
        elif path not in original:
            change = "" if isinstance(current[path], _IDENTITIES) else "was added"
        else:
            change = _describe_change(current[path], original[path])
        if change:
            changed.append(path)
            yield f"{path or 'the network'} {change}"


def _changed_tensors(model: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """Describe each tensor that is missing, added or has a different shape."""
    current, original = (
        {name: tuple(t.shape) for name, t in m.state_dict().items()} for m in (model, rebuilt)
    )
    for name in {**current, **original}:
        if name not in original:
            yield f"{name} was added"
        elif name not in current:
            yield f"{name} is missing"
        elif current[name] != original[name]:
            yield f"{name} has shape {current[name]}, not {original[name]}"


def _describe_change(now: nn.Module, before: nn.Module) -> str:
    """Describe how a module changed; empty if unchanged."""
    if _kind(now) is not _kind(before) or _settings(now) != _settings(before):
        described = [f"{type(m).__name__}({_settings(m)})" for m in (now, before)]
        return f"is {described[0]}, not {described[1]}"
    return "has a forward method that its class does not define" if "forward" in vars(now) else ""


def _kind(module: nn.Module) -> type[nn.Module]:
    """Return a module's class; all BatchNorm classes count as one, including SyncBatchNorm."""
    batch_norm: type[nn.Module] = nn.modules.batchnorm._BatchNorm
    is_frozen = isinstance(module, FrozenBatchNorm) and module.can_thaw
    if isinstance(module, batch_norm) or is_frozen:
        return batch_norm
    kind = type(module)
    return kind.__bases__[1] if hasattr(kind, "reshard") else kind  # FSDP2 derives classes


def _settings(module: nn.Module) -> str:
    """Return the module's own settings that affect its output in eval mode."""
    return _TRAINING_SETTINGS.sub("", module.extra_repr()).removeprefix(", ")
