"""Turn the operations of a block into the boxes and arrows of its drawing."""

from collections.abc import Sequence
from typing import NamedTuple

import networkx as nx
from torch import nn

from cnnarch.viz._block_trace import Operation, Shape, Source, trace_operations
from cnnarch.viz._layer_text import PERMUTATIONS, Label

Operations = dict[int, Operation]


class Box(NamedTuple):
    """A node of the drawing.

    Args:
        kind: "input", "output", "join", "split", or "layers" for everything else.
        lines: its text: one line for each layer with weights, pool or function, and the norms and
            activations that follow on one line.
    """

    kind: str
    lines: tuple[str, ...]


def block_graph(module: nn.Module, input_sizes: Sequence[Shape]) -> nx.MultiDiGraph:
    """Return the boxes as nodes with the attribute `box`, and the arrows between them as edges.

    An edge has the attributes `shape`, of the tensor, and `operand`, the position among the
    inputs of the box that reads it. Nodes are in the order in which they run.
    """
    operations = dict(enumerate(trace_operations(module, input_sizes)))
    _merge_reshapes(operations)
    _nest_concatenations(operations)
    _remove_unused(operations)
    graph = nx.MultiDiGraph()
    last: dict[int, int] = {}  # the box that contains each operation
    for group in _groups(operations):
        box = group[0]
        last |= dict.fromkeys(group, box)
        graph.add_node(box, box=_box([operations[i].label for i in group]))
        for operand, source in enumerate(operations[box].inputs):
            graph.add_edge(last[source.operation], box, shape=source.shape, operand=operand)
    return graph


def _bypass(operations: Operations, old: int) -> None:
    """Let all operations that read the output of `old` read its input, with the same shape."""
    new = operations[old].inputs[0].operation
    for i, operation in operations.items():
        inputs = (s._replace(operation=new) if s.operation == old else s for s in operation.inputs)
        operations[i] = operation._replace(inputs=tuple(inputs))


def _merge_reshapes(operations: Operations) -> None:
    """Merge successive reshapes, and remove those that only add or remove dimensions of size 1."""
    for i in operations:
        operation = operations[i]
        if operation.label.kind != "reshape":
            continue
        source = operation.inputs[0]
        before, name = operations[source.operation], operation.label.text
        if before.label.kind == "reshape" and len(_readers(operations, source.operation)) == 1:
            names = [before.label.text, name]
            name = next((n for n in names if n in PERMUTATIONS), name)
            source = before.inputs[0]
        label = Label("reshape", name)
        operations[i] = operation._replace(label=label, inputs=(source,))
        if name not in PERMUTATIONS and _sizes(source.shape) == _sizes(operation.shape):
            _bypass(operations, i)


def _sizes(shape: Shape) -> list[int]:
    return [size for size in shape if size != 1]


def _readers(operations: Operations, index: int) -> list[int]:
    """Return the operations that read an operation's output."""
    return [i for i, o in operations.items() if index in (s.operation for s in o.inputs)]


def _nest_concatenations(operations: Operations) -> None:
    """Write cat(a, b, c) as cat(cat(a, b), c) where cat(a, b) exists, as in dense blocks."""
    whole: dict[tuple[Source, ...], Source] = {}
    for i in operations:
        operation = operations[i]
        if operation.label != Label("join", "concat"):
            continue
        inputs = operation.inputs
        for length in range(len(inputs) - 1, 1, -1):
            if inputs[:length] in whole:
                nested = (whole[inputs[:length]], *inputs[length:])
                operations[i] = operation._replace(inputs=nested)
                break
        whole[inputs] = Source(i, operation.shape)
        if len(inputs) == 1:
            _bypass(operations, i)


def _remove_unused(operations: Operations) -> None:
    """Remove the operations that do not lead to an output."""
    used: set[int] = set()
    for i, operation in reversed(operations.items()):
        if operation.label.kind == "output" or i in used:
            used |= {i, *(source.operation for source in operation.inputs)}
    for i in operations.keys() - used:
        del operations[i]


def _groups(operations: Operations) -> list[list[int]]:
    """Group each convolution with the norm and activation after it, or before it if they precede.

    A group is a chain: each of its operations is the only one that reads the previous one.
    """
    groups: list[list[int]] = []
    group_of: dict[int, list[int]] = {}
    for i, operation in operations.items():
        previous = [source.operation for source in operation.inputs]
        if len(previous) == 1 and len(_readers(operations, previous[0])) == 1:
            group = group_of[previous[0]]
            kinds = [operations[j].label.kind for j in group]
            if group[-1] == previous[0] and _continues(kinds, operation.label.kind):
                group.append(i)
                group_of[i] = group
                continue
        group_of[i] = [i]
        groups.append(group_of[i])
    return groups


def _continues(kinds: list[str], kind: str) -> bool:
    """Return whether an operation of this kind joins a box with operations of `kinds`."""
    if kind in ("norm", "activation"):
        return kind not in kinds and {"weights", "norm"} >= set(kinds) - {"activation"}
    # Pre-activation: a norm and an activation, then the convolution.
    return kind == "weights" and kinds[-1] == "activation" and "weights" not in kinds


def _box(labels: Sequence[Label]) -> Box:
    kind = labels[0].kind if labels[0].kind in ("input", "output", "join", "split") else "layers"
    lines: list[str] = []
    short = False  # whether the last line lists norms and activations
    for label in labels:
        is_short = label.kind in ("norm", "activation")
        if short and is_short:
            lines[-1] += f", {label.text}"
        else:
            lines.append(label.text)
        short = is_short
    return Box(kind, tuple(lines))
