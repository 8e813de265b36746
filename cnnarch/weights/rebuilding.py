"""Check that a builder can recreate a network from its options."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnarch.facts.builders import BUILDERS
from cnnarch.weights.errors import WeightsError

_MAX_LISTED = 3
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
    rebuilt = _build(builder, model.options)
    changes = list(_changed_modules(model, rebuilt)) or list(_changed_tensors(model, rebuilt))
    if changes:
        more = len(changes) - _MAX_LISTED
        listed = "; ".join(changes[:_MAX_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise WeightsError(
            f"this network cannot be saved: its layers were changed after {builder}() created it, "
            f"so its options cannot rebuild it: {listed}"
        )


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
    return batch_norm if isinstance(module, batch_norm) else type(module)


def _settings(module: nn.Module) -> str:
    """Return the module's own settings that affect its output in eval mode."""
    return _TRAINING_SETTINGS.sub("", module.extra_repr()).removeprefix(", ")
