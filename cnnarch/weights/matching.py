"""Match a checkpoint's tensor names with a network's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.blocks._wrappers import uncompiled
from cnnarch.blocks.head import ClassifierHead
from cnnarch.weights.channels import first_convolutions
from cnnarch.weights.porting import Layout, Pair, layouts_of
from cnnarch.weights.rebuilding import build_on_meta

CNNARCH = Layout(
    "cnnarch",
    lambda model: (Pair(name, name) for name in map(uncompiled, model.state_dict())),
    ignored=("aux1", "aux2"),
)


NETWORK_NAMES = ("", "module", "model", "net", "backbone", "encoder_q")
"""Usual names of the network that is used, in models that also contain averages or teachers."""


@dataclass(frozen=True)
class Match:
    """A checkpoint whose tensors were renamed according to a layout.

    Args:
        layout: the layout.
        tensors: the checkpoint's tensors, keyed by our names.
        missing: our names for tensors that the checkpoint lacks, mapped to the expected names.
        unexpected: names in the checkpoint that do not exist in the network.
        alternatives: layouts with the same names that require other options.
        prefix: the start of all names in the checkpoint that belong to the network, which the other
            fields omit.
        dropped: names in the checkpoint that belong to other modules than the network.
        unused: names in the checkpoint of heads that the network was built without.
        zeros: names of the classifiers' biases that the checkpoint lacks.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    missing: dict[str, str]
    unexpected: tuple[str, ...]
    alternatives: tuple[Layout, ...] = ()
    prefix: str = ""
    dropped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()


def layouts_for(model: Any) -> list[Layout]:
    """Return all layouts of a network or backbone, ours first."""
    is_compiled = any("_orig_mod" in module._modules for module in model.modules())
    if getattr(model, "builder", None) is None or not (is_backbone(model) or is_compiled):
        return [CNNARCH, *layouts_of(model)]
    whole = build_on_meta(model.builder, model.options)  # with a head and no compiled layers

    def of_whole(layout: Layout) -> Layout:
        return layout._replace(
            pairs=lambda _: layout.pairs(whole),
            required_options=lambda _: layout.required_options(whole),
        )

    return [CNNARCH, *map(of_whole, layouts_of(whole))]


def is_backbone(model: nn.Module) -> bool:
    """Return whether a model is a network of ours without a head."""
    return hasattr(model, "builder") and not hasattr(model, "head")


def classifier_names(model: nn.Module) -> list[str]:
    """Return the names of the classifier layers of all heads, including absent layers."""
    heads = [name for name, m in model.named_modules() if isinstance(m, ClassifierHead)]
    return [f"{name}.classifier" if name else "classifier" for name in heads]


def find_prefixes(
    state_dict: Mapping[str, Tensor], model: nn.Module, layouts: Iterable[Mapping[str, Pair]]
) -> list[str]:
    """Return the prefixes that the network's names may have in a state dict, such as "module.".

    DataParallel, Lightning and models that contain the network add them. The first convolution
    shows them: its name ends as in one of the layouts.
    """
    prefixes, ours = {"": None}, next(iter(first_convolutions(model)), "")
    for pairs in layouts:
        if first := pairs.get(ours):
            ends = [name for name in state_dict if name.endswith(f".{first.theirs}")]
            prefixes |= dict.fromkeys(name.removesuffix(first.theirs) for name in ends)
    return list(prefixes)


def match_layout(
    state_dict: Mapping[str, Tensor], model: nn.Module, layout: Layout, pairs: Mapping[str, Pair]
) -> Match:
    """Rename a state dict according to a layout, whose pairs `pair_names` returned."""
    remaining = dict(state_dict)
    if layout.before_port:
        remaining = layout.before_port(remaining)
    remaining = _unwrap_classifiers(remaining, model, layout, pairs)
    zeros = _add_zero_biases(remaining, model, pairs)
    tensors, missing = {}, {}
    for name, pair in pairs.items():
        if pair.theirs in remaining:
            tensors[name] = _reshape_for_port(remaining.pop(pair.theirs), model, pair)
        elif not name.endswith("num_batches_tracked"):  # not saved by PyTorch < 0.4.1
            missing[name] = pair.theirs
    absent = (*layout.ignored, *_absent_classifiers(model, layout))
    unused = tuple(name for name in remaining if _is_inside(name, absent))
    others = tuple(name for name in remaining if not _is_inside(name, absent))
    if is_backbone(model):
        later = _later_names(model, layout, pairs, remaining)
        unused = tuple(name for name in remaining if _is_inside(name, (*absent, *later)))
        others = tuple(name for name in others if name not in unused)
    return Match(layout, tensors, missing, others, unused=unused, zeros=zeros)


def _later_names(
    model: Any, layout: Layout, pairs: Mapping[str, Pair], names: Iterable[str]
) -> list[str]:
    """Return the layout's names for the layers of the network that a backbone lacks."""
    if layout is CNNARCH:
        stages = {".".join(name.split(".")[:2]) for name in names if name.startswith("stages.")}
        return ["head", *stages.difference(model.stage_paths)]
    own = {pair.theirs for pair in pairs.values()}
    return [pair.theirs for pair in layout.pairs(model) if not _holds(pair.theirs, own)]


def their_classifiers(model: nn.Module, layout: Layout) -> list[str]:
    """Return the layout's names for the classifier layers of all heads, including absent ones."""
    names = classifier_names(model)
    if layout is CNNARCH:
        return names
    return [pair.theirs for pair in layout.pairs(model) if pair.ours in names]


def _unwrap_classifiers(
    tensors: dict[str, Tensor], model: nn.Module, layout: Layout, pairs: Mapping[str, Pair]
) -> dict[str, Tensor]:
    """Rename the only linear layer in a replaced classifier, such as "fc.1" in Dropout and Linear.

    A classifier that contains anything else with tensors keeps its names. In other libraries, the
    layer may also replace a container such as "classifier" of which "classifier.1" is the only
    layer with tensors.
    """
    renamed = dict(tensors)
    for name in their_classifiers(model, layout):
        parent, found = name.rpartition(".")[0], _only_layer(tensors, name)
        others = [pair.theirs for pair in pairs.values() if not _is_inside(pair.theirs, [name])]
        if not found and parent and layout is not CNNARCH and not _holds(parent, others):
            found = _only_layer(tensors, parent)
        for key, kind in found.items():
            renamed[f"{name}.{kind}"] = renamed.pop(key)
    return renamed


def _only_layer(tensors: Mapping[str, Tensor], module: str) -> dict[str, str]:
    """Return "weight" and "bias" by name if these are a module's only tensors, else nothing."""
    inside = [key for key in tensors if key.startswith(f"{module}.")]
    weights = [key for key in inside if key.endswith(".weight") and tensors[key].dim() > 1]
    layer = weights[0].removesuffix("weight") if len(weights) == 1 else ""
    if not layer or not set(inside) <= {f"{layer}weight", f"{layer}bias"}:
        return {}
    return {key: key.removeprefix(layer) for key in inside}


def _holds(module: str, names: Iterable[str]) -> bool:
    return any(_is_inside(name, [module]) for name in names)


def _add_zero_biases(
    tensors: dict[str, Tensor], model: nn.Module, pairs: Mapping[str, Pair]
) -> tuple[str, ...]:
    """Add zeros for classifiers without a bias, which are equivalent, and return our names."""
    added = []
    for classifier in classifier_names(model):
        weight, bias = (pairs.get(f"{classifier}.{kind}") for kind in ("weight", "bias"))
        if weight and bias and weight.theirs in tensors and bias.theirs not in tensors:
            like = tensors[weight.theirs]
            tensors[bias.theirs] = like.new_zeros(like.shape[0])
            added.append(bias.ours)
    return tuple(added)


def pair_names(model: nn.Module, layout: Layout) -> dict[str, Pair] | None:
    """Return a pair for each of our tensor names; None if the layout does not cover them all."""
    pairs = {pair.ours: pair for pair in layout.pairs(model)}
    names = {}
    for name in model.state_dict():
        parts = uncompiled(name).split(".")
        for cut in range(len(parts), 0, -1):
            pair = pairs.get(".".join(parts[:cut]))
            if pair is not None:
                break
        else:
            return None
        shape = None if parts[-1] == "bias" else pair.shape
        names[name] = Pair(name, ".".join([pair.theirs, *parts[cut:]]), shape)
    return names


def _absent_classifiers(model: nn.Module, layout: Layout) -> list[str]:
    """Return the layout's names for classifiers that the network was built without."""
    present = {name for name, _ in model.named_modules()}
    absent = [name for name in classifier_names(model) if name not in present]
    if layout is CNNARCH:
        return absent
    return [pair.theirs for pair in layout.pairs(model) if _is_inside(pair.ours, absent)]


def _is_inside(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _reshape_for_port(tensor: Tensor, model: nn.Module, pair: Pair) -> Tensor:
    """Reshape a tensor to our shape, keeping its row count; return it unchanged if that fails."""
    if pair.shape is None:
        return tensor
    shape = model.get_parameter(pair.ours).shape
    expected = torch.empty(shape, device="meta").reshape(pair.shape).shape
    if tensor.shape == expected:
        return tensor.reshape(shape)
    if tensor.shape[1:] != expected[1:]:
        return tensor
    return tensor.reshape(tensor.shape[:1] + shape[1:])
