"""Find networks by name."""

import fnmatch
import inspect
from collections.abc import Callable
from os import PathLike
from typing import Any

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import BUILDERS, families, family_of
from cnnarch.facts.cards import ModelCard
from cnnarch.facts.sheets import aliases, make_card
from cnnarch.facts.suggestions import suggest

__all__ = ["from_pretrained", "get_card", "get_model", "get_model_builder", "list_models"]


def list_models(
    pattern: str | None = None,
    *,
    family: str | None = None,
    weights: bool = False,
    max_params: float | None = None,
    max_macs: float | None = None,
    min_top1: float | None = None,
    sort: str = "name",
    **unknown: Any,
) -> list[str]:
    """Return the names of the networks that meet all conditions.

    Parameters and multiply-adds are those of the network's card: with default options, for one
    image of its `input_size`. The accuracy of a network is the highest top-1 accuracy on
    ImageNet-1K that is published for its checkpoints. With `max_macs`, only checkpoints whose own
    images cost no more count. Checkpoints of other widths do not count.

    A network without a published accuracy is left out if `min_top1` is given, and comes last if
    `sort` is "top1". The logger "cnnarch" states how many networks `min_top1` left out for this
    reason (level INFO). `cnnarch list` shows the values.

    Args:
        pattern: shell-style wildcard pattern for the name, for example "resnet*"; None matches all.
        family: return only networks of this family, for example "densenet".
        weights: return only networks with a checkpoint in the catalog.
        max_params: maximum number of parameters, for example 25e6.
        max_macs: maximum number of multiply-adds for one image, for example 4e9.
        min_top1: minimum published top-1 accuracy on ImageNet-1K in percent, for example 80.
        sort: "name", "params" or "macs" (smallest first), "top1" (highest first) or "year" (latest
            first). Networks without the value come last. Equal networks are sorted by name.
        unknown: not allowed; the error suggests the right argument.

    Raises:
        TypeError: a value has the wrong type, or an argument does not exist.
        ValueError: the family or the sort key does not exist, or a number is not in its range.

    >>> list_models("resnet?0")
    ['resnet50']
    >>> list_models(family="vgg", max_macs=12e9, min_top1=70, sort="top1")
    ['vgg13_bn', 'vgg11_bn']
    """
    for wrong in unknown:
        known = [*inspect.signature(list_models).parameters][:-1]
        hint = "pass weights=True" if wrong == "pretrained" else suggest(wrong, known)
        raise TypeError(f"list_models() has no argument {wrong!r}; {hint}")
    for argument, value in (("pattern", pattern), ("family", family)):
        if not isinstance(value, str | None):
            raise TypeError(f"{argument} must be a string or None, got {value!r}")
    if not isinstance(weights, bool):
        raise TypeError(f"weights must be True or False, got {weights!r}")
    if family is not None and family not in families():
        raise ValueError(f"there is no family {family!r}; {suggest(family, families())}")
    names = [name for name in BUILDERS if family in (None, family_of(name))]
    if pattern is not None:
        names = fnmatch.filter(names, pattern)
    if weights:
        from cnnarch.weights import get_weights

        names = [name for name in names if get_weights(name)]
    if (max_params, max_macs, min_top1, sort) == (None, None, None, "name"):
        return sorted(names)  # reads no sheets
    from cnnarch.weights.selection import Bounds, select

    rated = select(names, Bounds(max_params, max_macs, min_top1), sort)
    return [each.card.name for each in rated]


def get_model(name: str, **options: Any) -> ImageClassifier:
    """Build a network by name: `get_model("resnet50", num_classes=10)`.

    Args:
        name: one of `list_models()`.
        options: the builder's options, including `weights`.

    Raises:
        TypeError: the name is not a string, or the builder has no such option.
        ValueError: the network does not exist.
    """
    return get_model_builder(name)(**options)


def from_pretrained(source: str | PathLike[str], **options: Any) -> ImageClassifier:
    """Rebuild a network from a saved network or a saved state dict, which names the builder.

    A folder or repository of timm names the network in its config. It is built by the builder of
    the network of ours that computes the same, if there is one.

    Args:
        source: a folder, a file that contains a network's state dict, or a repository on the hub:
            "owner/name" (if there is no folder called "owner") or "hf-hub:owner/name[@revision]".
        options: options of the builder; all others keep their saved values.

    Raises:
        TypeError: the source is not a path, or the builder has no such option.
        WeightsError: the source does not exist or is not a saved network; also a ValueError.
    """
    from cnnarch.weights import find_pretrained

    if not isinstance(source, str | PathLike):
        raise TypeError(f"the source must be a string or a path, got {source!r}")
    name, weights = find_pretrained(source)
    return get_model(name, weights=weights, **options)


def get_model_builder(name: str) -> Callable[..., ImageClassifier]:
    """Return the function that builds a network.

    Raises:
        TypeError: the name is not a string.
        ValueError: the network does not exist.
    """
    if not isinstance(name, str):
        raise TypeError(f"a network's name must be a string, got {name!r}")
    if name not in BUILDERS:
        known = {builder: builder for builder in sorted(BUILDERS)} | aliases()
        raise ValueError(f"there is no network {name!r}; {suggest(name, known, list_models())}")
    return BUILDERS[name]


def get_card(name: str) -> ModelCard:
    """Return the card of a network: paper, exact counts, departures and weights.

    Raises:
        TypeError: the name is not a string.
        ValueError: the network does not exist.

    >>> get_card("resnet50").params
    25557032
    """
    from cnnarch.weights import get_weights

    get_model_builder(name)  # raises for unknown names
    return make_card(name, tuple(get_weights(name)))
