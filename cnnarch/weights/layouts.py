"""Whose names a checkpoint has, and the way from one library's names to another's."""

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.names import CNNARCH, Match, pair_names, see, their_view
from cnnarch.weights.options import contradicted
from cnnarch.weights.porting import Layout, layouts_of

__all__ = ["export", "match", "port", "problems", "report"]

_MOST_LISTED = 20


def port(
    state_dict: Mapping[str, Tensor], model: nn.Module, source: str = "auto"
) -> dict[str, Tensor]:
    """Another library's state dict under the names of `model`, ready for `load_state_dict`.

    Only names and views change: the tensors share memory with those given.

    Args:
        state_dict: tensors by their names there.
        model: a cnnarch network of the same kind; its values are not read or changed.
        source: "torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch" or
            "cnnarch"; "auto" finds out.

    Raises:
        WeightsError: no layout fits; the message lists at most 20 tensors that are missing, not
            expected or of another shape.

    >>> import cnnarch, torchvision
    >>> theirs = torchvision.models.resnet18()
    >>> ours = port(theirs.state_dict(), cnnarch.resnet18())
    >>> ours["stem.conv.weight"].shape
    torch.Size([64, 3, 7, 7])
    """
    found = match(state_dict, model, source)
    faults = problems(found, model)
    if any(faults.values()):
        raise WeightsError(report(f"the state dict ({found.layout.library})", faults))
    if wrong := contradicted(model, found.layout.needs(model)):
        raise WeightsError(_built_otherwise(found.layout.library, model, wrong))
    absent = {
        name: torch.zeros(own.shape, dtype=own.dtype)  # counters that old checkpoints lack
        for name, own in model.state_dict().items()
        if name not in found.tensors
    }
    return found.tensors | absent


def export(model: nn.Module, layout: str = "torchvision") -> dict[str, Tensor]:
    """The state dict of a network as another library names it; theirs loads it with strict=True.

    The tensors share memory with the network's, as those of `state_dict` do.

    Args:
        model: a cnnarch network.
        layout: "torchvision", "timm" or another library that has the network.

    Raises:
        WeightsError: that library has no such network, or has it only with other options.
    """
    candidates = [one for one in layouts_of(model) if one.library == layout]
    fitting = [one for one in candidates if pair_names(model, one) is not None]
    if not fitting:
        known = sorted({one.library for one in layouts_of(model) if pair_names(model, one)})
        raise WeightsError(
            f"{_called(model)} has no layout {layout!r}; it has {', '.join(known) or 'none'}"
        )
    wrong = [contradicted(model, one.needs(model)) for one in fitting]
    if all(wrong):
        raise WeightsError(_built_otherwise(layout, model, wrong[0]))
    chosen = fitting[wrong.index({})]
    names = pair_names(model, chosen)
    assert names is not None
    state = model.state_dict()
    theirs = {pair.theirs: their_view(state[pair.ours], pair) for pair in names.values()}
    return chosen.after(theirs) if chosen.after else theirs


def match(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    source: str = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    architecture: str | None = None,
) -> Match:
    """Find the layout of a state dict and bring its tensors under our names.

    Args:
        state_dict: tensors by the names that they came with.
        model: the network they are for, which may be on the meta device.
        source: a library's name, or "auto".
        options: what the network is known to be; a layout that needs something else comes last.
            None reads it off `model`.
        architecture: what the library calls the network, if the checkpoint says so.

    Raises:
        WeightsError: there is no such layout, or none of the names is known.
    """
    layouts = [one for one in (CNNARCH, *layouts_of(model)) if source in ("auto", one.library)]
    seen = [found for one in layouts if (found := see(state_dict, model, one)) is not None]
    if not seen:
        raise WeightsError(f"{_called(model)} has no layout {source!r}")
    most = max(len(found.tensors) for found in seen)
    if not most:
        listed = ", ".join(sorted(state_dict)[:3]) or "it is empty"
        raise WeightsError(
            f"no tensor of the checkpoint belongs to {_called(model)}: {listed}, ..."
        )
    best = [found for found in seen if len(found.tensors) == most]
    ranks = [_rank(found.layout, model, options, architecture) for found in best]
    chosen = best[ranks.index(min(ranks))]
    needs = chosen.layout.needs(model)
    equal = [found.layout for found, rank in zip(best, ranks, strict=True) if rank == min(ranks)]
    return replace(chosen, rivals=tuple(one for one in equal if one.needs(model) != needs))


def _rank(
    layout: Layout,
    model: nn.Module,
    options: Mapping[str, Any] | None,
    architecture: str | None,
) -> tuple[bool, int, int]:
    """How ill a layout of the right names suits.

    First by what the library calls the network, then by the needs that a built network
    cannot meet, then by all that are not met.
    """
    stranger = architecture is not None and not fnmatch.fnmatchcase(architecture, layout.builders)
    needs = layout.needs(model)
    if options is None:
        unmet = set(contradicted(model, needs))
    else:
        unmet = {name for name in needs if name in options and options[name] != needs[name]}
    return stranger, len(unmet - {"norm_eps"}), len(unmet)


def problems(found: Match, model: nn.Module) -> dict[str, list[str]]:
    """What keeps the tensors from loading strictly, by kind."""
    own = model.state_dict()
    return {
        "missing": list(found.missing.values()),
        "unexpected": list(found.unexpected),
        "otherwise": [
            f"{name} {_kind(tensor)}, the network has {_kind(own[name])}"
            for name, tensor in found.tensors.items()
            if tensor.shape != own[name].shape or _is_float(tensor) != _is_float(own[name])
        ],
    }


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point()


def report(subject: str, faults: Mapping[str, list[str]]) -> str:
    """One message of at most 20 faults, some of each kind."""
    kinds = [kind for kind, names in faults.items() if names]
    share = _MOST_LISTED // len(kinds)
    lines = [f"{kind}: {name}" for kind in kinds for name in faults[kind][:share]]
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in faults.items())
    return "\n  ".join([f"{subject} does not fit the network: {counts}", *lines])


def _built_otherwise(library: str, model: nn.Module, options: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"{library}'s {_called(model)} is ours built with {listed}"


def _called(model: nn.Module) -> str:
    return getattr(model, "builder", None) or type(model).__name__
