"""What a builder makes of a network's options, and how the network differs from that."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnarch.facts.builders import BUILDERS
from cnnarch.weights.errors import WeightsError

__all__ = ["check_rebuilds", "chosen_options"]

_MOST_LISTED = 3
_NOTHING = (nn.Identity, nn.modules.dropout._DropoutNd)  # in eval mode
# What a module says of itself that changes nothing in eval mode, and memory at most.
_IN_TRAINING_ALONE = re.compile(r"(, )?\b(momentum|inplace|p|rate)=[^,]*")


def chosen_options(builder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options whose values are not what the builder takes by default."""
    defaults = _build(builder, {}).options
    return {k: v for k, v in options.items() if k not in defaults or defaults[k] != v}


def check_rebuilds(model: Any) -> None:
    """Raise an error unless the network's builder makes its layers anew from its options.

    Dropout rates, momentum and in-place activations are not compared: they change nothing in
    eval mode.

    Raises:
        WeightsError: no builder made the network, or its layers were changed since. The message
            names the first of those that differ.
    """
    builder = getattr(model, "builder", None)
    if builder not in BUILDERS:
        made = "none made" if builder is None else f"{builder}, which cnnarch does not have, made"
        raise WeightsError(
            "only a network made by a builder such as cnnarch.resnet18 can be saved, since the "
            f"builder rebuilds it; {made} this {type(model).__name__}"
        )
    twin = _build(builder, model.options)
    changed = list(_other_modules(model, twin)) or list(_other_tensors(model, twin))
    if changed:
        more = len(changed) - _MOST_LISTED
        listed = "; ".join(changed[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")
        raise WeightsError(
            f"this network cannot be saved: its layers were changed after {builder}() made it, so "
            f"its options do not rebuild it: {listed}"
        )


def _build(builder: str, options: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return BUILDERS[builder](**options)


def _other_modules(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """A sentence for each module that is missing, too many, of another class or set otherwise."""
    own, built = dict(model.named_modules()), dict(twin.named_modules())
    reported: list[str] = []
    for path in {**built, **own}:
        if any(path.startswith(f"{parent}.") for parent in reported):
            continue
        now, was = own.get(path), built.get(path)
        if now is None:
            difference = f"{path} is missing"
        elif was is None:
            difference = "" if isinstance(now, _NOTHING) else f"{path} was added"
        else:
            difference = _difference(path, now, was)
        if difference:
            reported.append(path)
            yield difference


def _other_tensors(model: nn.Module, twin: nn.Module) -> Iterator[str]:
    """A sentence for each tensor that is missing, too many or of another shape."""
    own = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    built = {name: tuple(t.shape) for name, t in twin.state_dict().items()}
    for name in {**own, **built}:
        if name not in built:
            yield f"{name} was added"
        elif name not in own:
            yield f"{name} is missing"
        elif own[name] != built[name]:
            yield f"{name} has shape {own[name]}, not {built[name]}"


def _difference(path: str, now: nn.Module, was: nn.Module) -> str:
    """What is different of a module that both networks have; empty if nothing is."""
    if _kind(now) is not _kind(was) or _settings(now) != _settings(was):
        return f"{path} is {_described(now)}, not {_described(was)}"
    if "forward" in vars(now):
        return f"{path or 'the network'} has a forward that is not its class's"
    return ""


def _kind(module: nn.Module) -> type[nn.Module]:
    """Its class; for BatchNorm, which may be synchronised in training, what all of them are."""
    batch_norm: type[nn.Module] = nn.modules.batchnorm._BatchNorm
    return batch_norm if isinstance(module, batch_norm) else type(module)


def _settings(module: nn.Module) -> str:
    """What it says of itself and of no layer inside it."""
    return _IN_TRAINING_ALONE.sub("", module.extra_repr()).removeprefix(", ")


def _described(module: nn.Module) -> str:
    return f"{type(module).__name__}({_settings(module)})"
