"""How a builder makes its network: check the options, construct, load, remember."""

from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, Union

from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import option_parameters
from cnnarch.facts.suggestions import suggest

if TYPE_CHECKING:
    from cnnarch.weights import Weights

__all__ = ["WeightsSource", "build"]

WeightsSource = Union[str, PathLike[str], "Weights", Mapping[str, Tensor], None]
"""What `weights=` takes: a tag, a path, a hub name, a catalog entry, a state dict or None."""

P = ParamSpec("P")
Network = TypeVar("Network", bound=ImageClassifier)


def build(
    name: str,
    weights: WeightsSource,
    network: Callable[P, Network],
    *args: P.args,
    **options: P.kwargs,
) -> Network:
    """Construct `network(*args, **options)`, with weights if there are any.

    Args:
        name: the builder, recorded with every option so that the network can be rebuilt.
        weights: where to load from; None initialises by the paper's rule.
        network: a class of this package; its keyword-only arguments are the options.
        *args: what defines the network: the variant's blocks and table row.
        **options: what the caller chose.

    Raises:
        TypeError: an option that the network does not have, with the nearest that it has.
    """
    known = option_parameters(network)
    _check_options(name, options, list(known))
    if weights is None:
        model = network(*args, **options)
        model.builder = name
        model.options = {option: model.options[option] for option in known}
        return model
    from cnnarch.weights import build_with_weights

    return build_with_weights(name, weights, network, *args, **options)


def _check_options(name: str, given: Mapping[str, Any], known: list[str]) -> None:
    for option in given:
        if option not in known:
            raise TypeError(f"{name}() has no option {option!r}; {suggest(option, known)}")
