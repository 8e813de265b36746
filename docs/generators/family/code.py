"""The model file, the formulas of its blocks, and the reference of its public names."""

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

from ..text import bullets, details

FORMULA = re.compile(r"\$[^$]+\$")


def code_section(family: str) -> list[str]:
    """Return the formulas of the blocks that a model file uses, and the file itself."""
    module = importlib.import_module(f"cnnarch.models.{family}")
    lines = len(inspect.getsource(module).splitlines())
    source = f"```{{literalinclude}} ../../cnnarch/models/{family}.py\n:language: python\n```"
    parts = ["## The code"]
    if found := list(formulas(module)):
        parts += ["The formulas of the blocks that the model file uses:", bullets(found)]
    summary = f"<code>cnnarch/models/{family}.py</code>, the whole file ({lines} lines)"
    return [*parts, details(summary, source)]


def formulas(module: ModuleType) -> Iterator[str]:
    """Yield a line for each name in a model file whose docstring has a formula."""
    for name, value in vars(module).items():
        is_block = getattr(value, "__module__", "").startswith(("cnnarch.blocks", "cnnarch.models"))
        if is_block and (inspect.isclass(value) or inspect.isfunction(value)):
            first, _, _ = (inspect.getdoc(value) or "").partition("\n\n")
            if FORMULA.search(first):
                yield f"`{name}`: {' '.join(first.split())}"


def reference_section(family: str, builders: list[str]) -> list[str]:
    """Return the reference of a family's builders and classes."""
    module = importlib.import_module(f"cnnarch.models.{family}")
    classes = [n for n in module.__all__ if inspect.isclass(getattr(module, n))]
    parts = ["## Builders", *(_api(module, name, "autofunction") for name in builders)]
    return [*parts, "## Classes", *(_api(module, name, "autoclass") for name in classes)]


def _api(module: ModuleType, name: str, directive: str) -> str:
    return f"```{{eval-rst}}\n.. {directive}:: {module.__name__}.{name}\n```"
