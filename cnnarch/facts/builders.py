"""The registry of builders by name."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

Builder = TypeVar("Builder", bound=Callable[..., Any])

BUILDERS: dict[str, Callable[..., Any]] = {}
"""All builders by name, in order of definition."""


def builder(function: Builder) -> Builder:
    """Register a function as the builder of a network.

    The network's family is the name of the file, and the TOML file with the same name is the fact
    sheet. The keyword-only arguments of the network class are added to the function's signature
    as options, so `help` and editors show them.

    Raises:
        ValueError: the name is already registered.
    """
    name, network = function.__name__, function.__annotations__["return"]
    if name in BUILDERS:
        raise ValueError(f"a network called {name!r} is already registered")
    weights, *_ = inspect.signature(function).parameters.values()
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [weights, *option_parameters(network).values()], return_annotation=network
    )
    BUILDERS[name] = function
    return function


def family_of(name: str) -> str:
    """Return a network's family: the name of its model file."""
    return BUILDERS[name].__module__.rpartition(".")[2]


def families() -> list[str]:
    """Return all families that have a builder, sorted."""
    return sorted({family_of(name) for name in BUILDERS})


@cache
def option_parameters(network: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the keyword-only parameters of a network class: the options of its builders."""
    parameters = inspect.signature(network).parameters
    return {k: p for k, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
