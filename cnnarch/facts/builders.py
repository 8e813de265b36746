"""Builders by name: what makes a function of a model file a network of cnnarch."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

__all__ = ["BUILDERS", "builder", "families", "family_of", "option_parameters"]

Builder = TypeVar("Builder", bound=Callable[..., Any])

BUILDERS: dict[str, Callable[..., Any]] = {}
"""Every builder by name, in the order in which the model files define them."""


def builder(function: Builder) -> Builder:
    """Register a function as the builder of a network.

    Its family is the file it is in, whose fact sheet is the TOML file beside it. Its
    signature becomes that of the class it returns, whose keyword-only arguments are the options,
    so `help` and editors show them.

    Raises:
        ValueError: the name is taken.
    """
    name, network = function.__name__, function.__annotations__["return"]
    if name in BUILDERS:
        raise ValueError(f"a network called {name!r} is registered already")
    weights, *_ = inspect.signature(function).parameters.values()
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [weights, *option_parameters(network).values()], return_annotation=network
    )
    BUILDERS[name] = function
    return function


def family_of(name: str) -> str:
    """The family of a network: the name of its model file."""
    return BUILDERS[name].__module__.rpartition(".")[2]


def families() -> list[str]:
    """Every family that has a builder, sorted."""
    return sorted({family_of(name) for name in BUILDERS})


@cache
def option_parameters(network: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a network class: what its builders take as options."""
    parameters = inspect.signature(network).parameters
    return {k: p for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
