"""Build a network: check the options, construct it, load weights, record the options."""

import os
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, ParamSpec, TypeVar, Union

from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import option_parameters
from cnnarch.facts.suggestions import suggest

if TYPE_CHECKING:
    from cnnarch.weights import Weights

WeightsSource = Union[str, PathLike[str], "Weights", Mapping[str, Tensor], None]
"""Values of `weights=`: a tag, a path, a hub name, a catalog entry, a state dict or None."""

P = ParamSpec("P")
Network = TypeVar("Network", bound=ImageClassifier)


def build(
    name: str,
    weights: WeightsSource,
    network: Callable[P, Network],
    *args: P.args,
    **options: P.kwargs,
) -> Network:
    """Construct `network(*args, **options)` and load weights if any are given.

    Args:
        name: builder name, recorded with all options so that the network can be rebuilt.
        weights: weights source. None initializes the network as in the paper.
        network: a cnnarch network class. Its keyword-only arguments are the options.
        *args: the variant's blocks and its row in the paper's table.
        **options: options chosen by the caller.

    Raises:
        TypeError: an option is unknown. The message suggests the closest match.
    """
    known = option_parameters(network)
    for option in options:
        if option not in known:
            raise TypeError(f"{name}() has no option {option!r}; {suggest(option, list(known))}")
    if weights is None:
        model = network(*args, **options)
        model.builder = name
        model.options = {option: model.options[option] for option in known}
        return model
    from cnnarch.weights import build_with_weights

    model = build_with_weights(name, weights, network, *args, **options)
    model.weights_source = _source_of(weights)
    return model


def _source_of(weights: object) -> str:
    """Return the text that `weights=` also accepts, or "" for tensors in memory."""
    if isinstance(weights, str | PathLike):
        return os.fspath(weights)
    values = (getattr(weights, name, None) for name in ("tag", "name", "url"))
    return next((value for value in values if isinstance(value, str)), "")
