"""The model file, the formulas of its blocks, and the reference of its public names."""

import importlib
import inspect
import re
from types import ModuleType

from cnnarch.facts.cards import ModelCard

from ..blocks import network
from ..text import bullets, details

FORMULA = re.compile(r"\$[^$]+\$")
EQUATION = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


def code_section(family: str) -> list[str]:
    """Return the model file in a section that readers open."""
    module = importlib.import_module(f"cnnarch.models.{family}")
    lines = len(inspect.getsource(module).splitlines())
    source = f"```{{literalinclude}} ../../cnnarch/models/{family}.py\n:language: python\n```"
    summary = f"<code>cnnarch/models/{family}.py</code>, the whole file ({lines} lines)"
    return ["## The code", details(summary, source)]


def formulas_of(card: ModelCard) -> list[str]:
    """Return the formulas of a network's blocks as a list; nothing if they have none."""
    module = importlib.import_module(f"cnnarch.models.{card.family}")
    named = [value for value in vars(module).values() if inspect.isclass(value)]
    used = [base for layer in network(card.name).modules() for base in type(layer).__mro__]
    found = {}
    for block in [*used, *named]:
        first, _, rest = (inspect.getdoc(block) or "").partition("\n\n")
        if equation := EQUATION.match(rest):
            first = f"{first.removesuffix('.')}, with ${equation[1]}$."
        if block.__module__.startswith("cnnarch.") and FORMULA.search(first):
            found[block.__name__] = f"`{block.__name__}`: {' '.join(first.split())}"
    return ["What the network's blocks compute:", bullets(list(found.values()))] if found else []


def reference_section(family: str, builders: list[str]) -> list[str]:
    """Return the reference of a family's builders and classes."""
    module = importlib.import_module(f"cnnarch.models.{family}")
    classes = [n for n in module.__all__ if inspect.isclass(getattr(module, n))]
    parts = ["## Builders", *(_api(module, name, "autofunction") for name in builders)]
    return [*parts, "## Classes", *(_api(module, name, "autoclass") for name in classes)]


def _api(module: ModuleType, name: str, directive: str) -> str:
    return f"```{{eval-rst}}\n.. {directive}:: {module.__name__}.{name}\n```"
