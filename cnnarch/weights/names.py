"""One checkpoint through one layout: which tensor of theirs is which of ours."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnarch.blocks.head import ClassifierHead
from cnnarch.weights.porting import Layout, Pair

__all__ = ["CNNARCH", "Match", "classifier_names", "pair_names", "see", "their_view"]


def _own_names(model: nn.Module) -> Iterator[Pair]:
    for name in model.state_dict():
        yield Pair(name, name)


CNNARCH = Layout("cnnarch", _own_names, ignored=("aux1", "aux2"))


@dataclass(frozen=True)
class Match:
    """A checkpoint seen through a layout.

    Args:
        layout: whose names it has.
        tensors: its tensors under our names.
        missing: names of ours that the checkpoint has no tensor for, with their names for them.
        unexpected: names of the checkpoint that the network has no place for.
        rivals: layouts of the same names that need other options than `layout` does.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    missing: dict[str, str]
    unexpected: tuple[str, ...]
    rivals: tuple[Layout, ...] = ()


def classifier_names(model: nn.Module) -> list[str]:
    """Names of the classifier layers, auxiliary ones too, whether or not they are there."""
    heads = [name for name, m in model.named_modules() if isinstance(m, ClassifierHead)]
    return [f"{name}.classifier" if name else "classifier" for name in heads]


def see(state_dict: Mapping[str, Tensor], model: nn.Module, layout: Layout) -> Match | None:
    """The checkpoint through one layout; None if the layout is not for this network."""
    names = pair_names(model, layout)
    if names is None:
        return None
    theirs = layout.before(dict(state_dict)) if layout.before else dict(state_dict)
    own = model.state_dict()
    tensors, missing = {}, {}
    for name, pair in names.items():
        if pair.theirs in theirs:
            tensors[name] = _our_view(theirs.pop(pair.theirs), own[name], pair)
        elif not name.endswith("num_batches_tracked"):  # came with PyTorch 0.4.1, matters little
            missing[name] = pair.theirs
    unneeded = (*layout.ignored, *_absent_classifiers(model, layout))
    unexpected = [name for name in theirs if not _begins(name, unneeded)]
    return Match(layout, tensors, missing, tuple(unexpected))


def pair_names(model: nn.Module, layout: Layout) -> dict[str, Pair] | None:
    """A pair of tensor names for each tensor of ours; None if the layout leaves one out."""
    pairs = {pair.ours: pair for pair in layout.pairs(model)}
    names = {}
    for name in model.state_dict():
        parts = name.split(".")
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
    """Their names of classifiers that the network was built without."""
    absent = [name for name in classifier_names(model) if not _has(model, name)]
    if layout is CNNARCH:
        return absent
    return [pair.theirs for pair in layout.pairs(model) if _begins(pair.ours, absent)]


def _has(model: nn.Module, name: str) -> bool:
    return any(found == name for found, _ in model.named_modules())


def _begins(name: str, prefixes: Iterable[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _our_view(tensor: Tensor, own: Tensor, pair: Pair) -> Tensor:
    """Their tensor in our shape, of as many rows as theirs; as it is where that cannot be."""
    if pair.shape is None:
        return tensor
    expected = torch.empty(own.shape, device="meta").reshape(pair.shape).shape
    if tensor.shape[1:] != expected[1:]:
        return tensor
    return tensor.reshape(tensor.shape[:1] + own.shape[1:])


def their_view(tensor: Tensor, pair: Pair) -> Tensor:
    """Our tensor in the shape that it has with them."""
    return tensor if pair.shape is None else tensor.reshape(pair.shape)
