"""Detect which library's tensor names a checkpoint uses, and convert between libraries."""

import fnmatch
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.blocks._hooks import warn_about_hooks
from cnnarch.blocks._wrappers import gathered, uncompiled, unwrapped
from cnnarch.facts.options import find_conflicts
from cnnarch.facts.sheets import namesakes, twins
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.matching import (
    NETWORK_NAMES,
    Match,
    find_prefixes,
    layouts_for,
    match_layout,
    pair_names,
)
from cnnarch.weights.porting import Layout, layouts_of
from cnnarch.weights.rebuilding import check_exports

_MAX_LISTED = 20
_AVERAGES = "n_averaged"  # counter in torch's AveragedModel


def port(
    state_dict: Mapping[str, Tensor], model: nn.Module, source: str = "auto"
) -> dict[str, Tensor]:
    """Convert another library's state dict into one that `model.load_state_dict` accepts.

    The returned tensors share memory with the given ones.

    Args:
        state_dict: tensors, keyed by the other library's names.
        model: a cnnarch network of the same architecture. Its weights are neither read nor changed.
        source: "torchvision", "timm", "pytorchcv", "cadene", "efficientnet_pytorch" or
            "cnnarch"; for ResNets for CIFAR also "pytorch_resnet_cifar10" or
            "pytorch_classification"; for RepVGG "repvgg" and for MobileOne "mobileone", their
            authors' repositories; "auto" detects it.

    Raises:
        WeightsError: no layout fits. The message lists up to 20 tensors that are missing,
            unexpected or mismatched.

    >>> import cnnarch, torchvision
    >>> theirs = torchvision.models.resnet18()
    >>> ours = port(theirs.state_dict(), cnnarch.resnet18())
    >>> ours["stem.conv.weight"].shape
    torch.Size([64, 3, 7, 7])
    """
    found = find_match(state_dict, model, source)
    mismatches = find_mismatches(found, model)
    if any(mismatches.values()):
        subject = f"the state dict ({found.layout.library})"
        raise WeightsError(describe_mismatches(subject, model, mismatches))
    if conflicts := find_conflicts(model, found.layout.required_options(model)):
        raise WeightsError(_conflict_message(found.layout.library, model, conflicts))
    device = next((tensor.device for tensor in found.tensors.values()), None)
    counters = {  # old checkpoints lack the counters
        name: torch.zeros(tensor.shape, dtype=tensor.dtype, device=device)
        for name, tensor in model.state_dict().items()
        if name not in found.tensors
    }
    ported = OrderedDict(found.tensors | counters)
    ported._metadata = model.state_dict()._metadata  # type: ignore[attr-defined] # the options
    return ported


def export(model: nn.Module, layout: str = "torchvision") -> dict[str, Tensor]:
    """Convert a network's state dict to one that another library's `load_state_dict` accepts.

    The returned tensors share memory with the network's, like those of `state_dict`.

    Args:
        model: a cnnarch network.
        layout: "torchvision", "timm" or another library that provides the network.

    Raises:
        WeightsError: the library does not provide the network or requires other options, or the
            network's layers were changed, for example by `dilate` or `convert_norm`; "frozen" and
            "sync" norms are exported.
    """
    model = unwrapped(model)
    check_exports(model, layout)
    warn_about_hooks(model, "are not exported")
    chosen = choose_layout(model, layout)
    state = gathered(model.state_dict())
    theirs = {}
    for name, pair in (pair_names(model, chosen) or {}).items():
        tensor = state[name]
        theirs[pair.theirs] = tensor if pair.shape is None else tensor.reshape(pair.shape)
    return chosen.after_export(theirs) if chosen.after_export else theirs


def choose_layout(model: nn.Module, library: str) -> Layout:
    """Return the layout of a library whose network equals this one.

    Raises:
        WeightsError: the library does not provide the network or requires other options.
    """
    candidates = {one: pairs for one in layouts_of(model) if (pairs := pair_names(model, one))}
    if hint := namesakes(_name(model)):  # the names alone also fit the other network
        libraries = {twin.library for twin in twins(_name(model))}
        candidates = {one: candidates[one] for one in candidates if one.library in libraries}
    fitting = [one for one in candidates if one.library == library]
    if not fitting:
        known = ", ".join(sorted({one.library for one in candidates})) or "none"
        raise WeightsError(f"{_name(model)} has no layout {library!r}; it has {known}{hint}")
    conflicts = [find_conflicts(model, one.required_options(model)) for one in fitting]
    if all(conflicts):
        raise WeightsError(_conflict_message(library, model, conflicts[0]))
    return fitting[conflicts.index({})]


def find_match(
    state_dict: Mapping[str, Tensor],
    model: nn.Module,
    source: str = "auto",
    *,
    options: Mapping[str, Any] | None = None,
    architecture: str | None = None,
) -> Match:
    """Find the layout that best fits a state dict, and rename the tensors accordingly.

    Args:
        state_dict: tensors, keyed by their original names.
        model: the network, which may be on the meta device.
        source: name of a library, or "auto".
        options: known options of the network. Layouts that require different values rank lower.
            None uses the options of `model`.
        architecture: the library's name for the network, if the checkpoint states it.

    Raises:
        WeightsError: the network has no such layout, or no tensor name matches.
    """
    layouts = [one for one in layouts_for(model) if source in ("auto", one.library)]
    named = [(one, pairs) for one in layouts if (pairs := pair_names(model, one)) is not None]
    bare = {uncompiled(name): tensor for name, tensor in state_dict.items()}
    matches = []
    for prefix in find_prefixes(bare, model, [pairs for _, pairs in named]):
        inside = {k.removeprefix(prefix): t for k, t in bare.items() if k.startswith(prefix)}
        dropped = tuple(k for k in bare if not k.startswith(prefix) and k != _AVERAGES)
        found = (match_layout(inside, model, one, pairs) for one, pairs in named)
        matches += [replace(each, prefix=prefix, dropped=dropped) for each in found]
    if not matches:
        raise WeightsError(f"{_name(model)} has no layout {source!r}")
    most = max(len(found.tensors) for found in matches)
    if not most:
        for path, module in model.named_modules():
            if path and hasattr(module, "builder") and not hasattr(model, "builder"):
                raise WeightsError(f"{_name(model)} contains a network: load into its {path}")
        listed = ", ".join(sorted(state_dict)[:3]) or "it is empty"
        raise WeightsError(
            f"none of the checkpoint's tensors belong to {_name(model)}: {listed}, ..."
            f"{namesakes(_name(model))}"
        )
    best = [found for found in matches if len(found.tensors) == most]
    fewest = min(len(found.unexpected) for found in best)
    best = [found for found in best if len(found.unexpected) == fewest]
    prefix = _choose_prefix({found.prefix: None for found in best})
    best = [found for found in best if found.prefix == prefix]
    ranks = [_rank(found.layout, model, options, architecture) for found in best]
    chosen = best[ranks.index(min(ranks))]
    required = chosen.layout.required_options(model)
    equal = [found.layout for found, rank in zip(best, ranks, strict=True) if rank == min(ranks)]
    return replace(
        chosen,
        alternatives=tuple(one for one in equal if one.required_options(model) != required),
    )


def _choose_prefix(prefixes: Iterable[str]) -> str:
    """Return the prefix of the network among several whose tensors fit equally well.

    Raises:
        WeightsError: there is no way to know.
    """
    known = [p for p in prefixes if p.rpartition(".")[0].rpartition(".")[2] in NETWORK_NAMES]
    candidates = known or list(prefixes)
    if len(candidates) > 1:
        raise WeightsError(
            f"the checkpoint contains several networks, whose names start with "
            f"{' and '.join(sorted(map(repr, candidates)))}: pass the tensors of one of them"
        )
    return candidates[0]


def _rank(
    layout: Layout,
    model: nn.Module,
    options: Mapping[str, Any] | None,
    architecture: str | None,
) -> tuple[bool, int, int]:
    """Rank a layout whose names match: lower is better.

    The architecture's name is compared first, then the number of conflicts that cannot be resolved
    after building, then the total number of conflicts.
    """
    misnamed = architecture is not None and not fnmatch.fnmatchcase(
        architecture, layout.architectures
    )
    required = layout.required_options(model)
    if options is None:
        conflicts = set(find_conflicts(model, required))
    else:
        conflicts = {k for k, v in required.items() if k in options and options[k] != v}
    return misnamed, len(conflicts - {"norm_eps"}), len(conflicts)


def find_mismatches(found: Match, model: nn.Module) -> dict[str, list[str]]:
    """Return the tensors that prevent strict loading, grouped by kind."""
    expected = model.state_dict()
    return {
        "missing": list(found.missing.values()),
        "unexpected": list(found.unexpected),
        "different": [
            f"{name} {_describe(tensor)}, but the network has {_describe(expected[name])}"
            for name, tensor in found.tensors.items()
            if tensor.shape != expected[name].shape
            or tensor.is_floating_point() != expected[name].is_floating_point()
        ],
    }


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def describe_mismatches(subject: str, model: nn.Module, mismatches: Mapping[str, list[str]]) -> str:
    """Return one message that lists up to 20 mismatches, some of each kind."""
    kinds = [kind for kind, names in mismatches.items() if names]
    share = _MAX_LISTED // len(kinds)
    lines = [f"{kind}: {name}" for kind in kinds for name in mismatches[kind][:share]]
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in mismatches.items())
    hint = namesakes(_name(model))
    return "\n  ".join([f"{subject} does not fit the network: {counts}{hint}", *lines])


def _conflict_message(library: str, model: nn.Module, options: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f"{library}'s {_name(model)} equals ours built with {listed}"


def _name(model: nn.Module) -> str:
    return getattr(model, "builder", None) or type(model).__name__
