"""Draw the module of a block's example, and describe the drawing in words."""

import ast
import doctest
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from torch import nn

from cnnarch.viz import block_diagram
from cnnarch.viz._block_graph import Box, block_graph

Shape = tuple[int, ...]
JOINS = {"+": "sum", "\N{MULTIPLICATION SIGN}": "product", "concat": "concatenation"}


class Drawing(NamedTuple):
    """A drawing in a file.

    Args:
        file: name of the file.
        alt: what the drawing shows, in words.
        example: the code that creates the module.
    """

    file: str
    alt: str
    example: str


class Example(NamedTuple):
    """The example in a block's documentation: its code, the module and the sizes of its inputs."""

    code: str
    module: nn.Module
    input_sizes: list[Shape]


def draw_example(kind: type[nn.Module], folder: Path) -> Drawing | None:
    """Draw the module in the documentation of a class to `folder`.

    Returns:
        The drawing, or None if there is no example or the module is a single layer.
    """
    example = example_of(kind)
    if example is None:
        return None
    graph = block_graph(example.module, example.input_sizes)
    kinds = [box.kind for _, box in graph.nodes(data="box")]
    if len(kinds) - kinds.count("input") - kinds.count("output") < 2 and not has_layers(example):
        return None
    file = f"{kind.__name__}.svg"
    save(example.module, example.input_sizes, folder / file)
    alt = describe(kind.__name__, example.module, example.input_sizes)
    return Drawing(file, alt, example.code)


def has_layers(example: Example) -> bool:
    return next(example.module.children(), None) is not None


def example_of(kind: type[nn.Module]) -> Example | None:
    """Return the last example of the form `module(tensor, ...).shape` in a class's docstring."""
    names = dict(vars(sys.modules[kind.__module__]))
    assigned: dict[str, str] = {}
    found = None
    for example in doctest.DocTestParser().get_examples(inspect.getdoc(kind) or ""):
        match ast.parse(example.source).body:
            case [ast.Expr(ast.Attribute(ast.Call(function, inputs), "shape"))]:
                code = ast.unparse(function)
                module = eval(code, names)
                tensors = [eval(ast.unparse(value), names) for value in inputs]
                if isinstance(module, kind):
                    code = assigned.get(code, code)
                    found = Example(code, module, [tuple(x.shape[1:]) for x in tensors])
            case [ast.Assign([ast.Name(name)], value)]:
                assigned[name] = ast.unparse(value)
                exec(example.source, names)
            case _:
                exec(example.source, names)
    return found


def save(module: nn.Module, input_sizes: Sequence[Shape], path: Path) -> None:
    """Save the drawing of a block, as the same file in every build."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "cnnarch"}):
        block_diagram(module, *input_sizes).savefig(path, metadata={"Date": None})


def describe(name: str, module: nn.Module, input_sizes: Sequence[Shape]) -> str:
    """Describe the drawing of a block in words: its boxes from top to bottom."""
    graph = block_graph(module, input_sizes)
    boxes: dict[int, Box] = dict(graph.nodes(data="box"))
    steps = []
    for node, box in boxes.items():
        text = short_text(box)
        if box.kind == "join":
            edges = sorted(graph.in_edges(node, data="operand"), key=lambda edge: edge[2])
            operands = [f"({short_text(boxes[edge[0]])})" for edge in edges]
            text = f"{JOINS.get(text, text)} of {', '.join(operands[:-1])} and {operands[-1]}"
        steps.append(text)
    return f"Diagram of {name}, from top to bottom: {'; '.join(steps)}."


def short_text(box: Box) -> str:
    """Return the text of a box on one line."""
    return ", ".join(box.lines)
