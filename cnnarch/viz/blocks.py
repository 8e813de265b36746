"""A drawing of a block: its layers, its branches and how they meet."""

from collections.abc import Iterable
from functools import cache
from typing import Any

import networkx as nx
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import text_to_path
from torch import nn

from cnnarch.viz._block_graph import Box, block_graph
from cnnarch.viz._block_layout import FORK_GAP, GAP, Edge, Point, Size, lay_out
from cnnarch.viz._figure import DOTS, GRAY
from cnnarch.viz._layer_text import ARITHMETIC, TIMES

FONT, SMALL_FONT = 8.0, 6.5  # points
LINE = 0.155  # height of a line of text, in inches
PADDING = 0.09, 0.06  # between a text and its box
CIRCLE = 0.24  # diameter
MARGIN = 0.08  # around the drawing
LABEL_OFFSET = 0.06  # of a shape from its arrow
BUS = 0.16  # distance between a box and the horizontal part of an arrow
RADIUS = 0.1  # of an arrow's corners
CORNER = 0.05  # of a box
INK = "#1F2937"
COLORS = {"layers": "#EAF2F8", "join": "#FDF3DF", "split": "#FDF3DF"}


def block_diagram(module: nn.Module, *input_sizes: tuple[int, ...]) -> Figure:
    """Draw the layers of a block from top to bottom, with its shortcut or branches side by side.

    The drawing shows the operations that run in eval mode: a box for each layer or function, with
    kernel size, output channels and stride ("/2"), and a circle where tensors are added or
    multiplied. The norm and activation after a convolution share its box. Arrows state the
    shape of the tensor where it changes. Layers that do nothing in eval mode are not shown.

    Args:
        module: any module, on any device: a block, a stage or one of your own.
        *input_sizes: the size of each input without the batch dimension, such as `(C, H, W)`.

    Raises:
        ValueError: a size is not allowed, or the module cannot process inputs of these sizes.
        TypeError: `module` is not a module, or it returns no tensor.

    >>> from cnnarch.blocks import Bottleneck
    >>> figure = block_diagram(Bottleneck(256, 64), (256, 56, 56))
    >>> figure.savefig("bottleneck.svg")  # doctest: +SKIP
    """
    return _Drawing(block_graph(module, input_sizes)).figure


class _Drawing:
    """The boxes and arrows of a graph from `block_graph`, on a figure of the size they need."""

    def __init__(self, graph: nx.MultiDiGraph) -> None:
        self.graph = graph
        self.labels = _shape_labels(graph)
        self.sizes = {node: self._size(node) for node in graph}
        widths = {e: LABEL_OFFSET + _text_width(t, SMALL_FONT) for e, t in self.labels.items()}
        self.layout = lay_out(graph, self.sizes, widths)
        left, right = self.layout.left + MARGIN, self.layout.right + MARGIN
        bottom = self.layout.height + MARGIN
        self.figure = Figure(figsize=(left + right, bottom + MARGIN), facecolor="white", dpi=DOTS)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(-left, right), ylim=(bottom, -MARGIN))
        self.axes.set_axis_off()
        for node in graph:
            self._draw_box(node)
        for edge in graph.edges(keys=True):
            self._draw_edge(edge)

    def _size(self, node: int) -> Size:
        box: Box = self.graph.nodes[node]["box"]
        if box.kind == "join" and box.lines[0] in ARITHMETIC:
            return Size(CIRCLE, CIRCLE)
        width = max(_text_width(line, FONT) for line in box.lines) + 2 * PADDING[0]
        height = len(box.lines) * LINE + (2 * PADDING[1] if box.kind in COLORS else 0)
        return Size(width, height)

    def _draw_box(self, node: int) -> None:
        box: Box = self.graph.nodes[node]["box"]
        (x, y), size = self.layout.boxes[node], self.sizes[node]
        if box.kind in COLORS:
            style: dict[str, Any] = {"edgecolor": GRAY, "linewidth": 0.8}
            style["facecolor"] = COLORS[box.kind]
            corner, (width, height) = (x - size.width / 2, y), size
            if size == (CIRCLE, CIRCLE):
                self.axes.add_patch(Circle((x, y + CIRCLE / 2), CIRCLE / 2, **style))
            else:
                rounding = f"round,pad=0,rounding_size={CORNER}"
                self.axes.add_patch(
                    FancyBboxPatch(corner, width, height, boxstyle=rounding, **style)
                )
        for i, line in enumerate(box.lines):
            middle = y + size.height / 2 + (i - (len(box.lines) - 1) / 2) * LINE
            font: dict[str, Any] = {"fontsize": FONT, "color": INK}
            self.axes.text(x, middle, line, ha="center", va="center_baseline", **font)

    def _draw_edge(self, edge: Edge) -> None:
        arrow = FancyArrowPatch(
            path=_rounded(self._points(edge)),
            arrowstyle="-|>,head_length=3,head_width=1.6",
            mutation_scale=1,
            color=GRAY,
            linewidth=0.9,
        )
        self.axes.add_patch(arrow)
        if edge in self.labels:
            kind, x, start, end = self._route(edge)
            y = (start[1] + end[1]) / 2
            if kind == "fork":
                y = end[1] - BUS
            elif kind == "skip":
                y = start[1] + FORK_GAP - BUS
            elif kind == "merge":
                y = start[1] + GAP / 2
            style: dict[str, Any] = {"fontsize": SMALL_FONT, "color": GRAY, "va": "center"}
            self.axes.text(x + LABEL_OFFSET, y, self.labels[edge], **style)

    def _route(self, edge: Edge) -> tuple[str, float, Point, Point]:
        """Return how an arrow runs, the position of its vertical part, its start and its end."""
        (x, y), end = self.layout.boxes[edge[0]], self.layout.boxes[edge[1]]
        kind, column = self.layout.routes.get(edge, ("straight", x))
        return kind, column, (x, y + self.sizes[edge[0]].height), end

    def _points(self, edge: Edge) -> list[Point]:
        """Return the corners of an arrow, from its start to its end."""
        kind, column, (x, y), end = self._route(edge)
        points = [(x, y)]
        if kind in ("fork", "skip"):
            points += [(x, y + BUS), (column, y + BUS)]
        if kind in ("merge", "skip"):
            if self._enters_at_the_side(edge):
                size = self.sizes[edge[1]]
                side = size.width / 2 if column > end[0] else -size.width / 2
                middle = end[1] + size.height / 2
                return [*points, (column, middle), (end[0] + side, middle)]
            points += [(column, end[1] - BUS), (end[0], end[1] - BUS)]
        return [*points, end]

    def _enters_at_the_side(self, edge: Edge) -> bool:
        """Return whether an arrow beside another one, which enters from above, ends at a join."""
        others = [e for e in self.graph.in_edges(edge[1], keys=True) if e != edge]
        if self.graph.nodes[edge[1]]["box"].kind != "join" or len(others) != 1:
            return False
        center, top = self.layout.boxes[edge[1]]
        column = self._route(edge)[1]
        if self._route(others[0])[1] != center or column == center:
            return False
        left, right = min(center, column), max(center, column)
        row = [x for x, y in self.layout.boxes.values() if y == top]
        return sum(left <= x <= right for x in row) == 1  # no other box is in the way


def _shape_labels(graph: nx.MultiDiGraph) -> dict[Edge, str]:
    """Return the shapes to show: at inputs and outputs, after splits, and where they change."""
    labels = {}
    for node, box in graph.nodes(data="box"):
        before = {shape for _, _, shape in graph.in_edges(node, data="shape")}
        edges = sorted(graph.out_edges(node, keys=True), key=lambda edge: edge[1:])
        shown = edges if box.kind == "split" else edges[:1]
        for edge in edges:
            shape = graph.edges[edge]["shape"]
            is_output = graph.nodes[edge[1]]["box"].kind == "output"
            if (edge in shown and shape not in before) or is_output:
                labels[edge] = f" {TIMES} ".join(map(str, shape))
    return labels


@cache
def _text_width(text: str, size: float) -> float:
    """Return the width of a text in inches."""
    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _rounded(points: Iterable[Point]) -> Path:
    """Return a path through points with rounded corners."""
    found: list[Point] = []
    for point in points:
        if not found or abs(found[-1][0] - point[0]) + abs(found[-1][1] - point[1]) > 1e-6:
            found.append(point)
    vertices, codes = [found[0]], [int(Path.MOVETO)]
    for before, corner, after in zip(found, found[1:], found[2:], strict=False):
        vertices += [_towards(corner, before), corner, _towards(corner, after)]
        codes += [int(Path.LINETO), int(Path.CURVE3), int(Path.CURVE3)]
    return Path([*vertices, found[-1]], [*codes, int(Path.LINETO)])


def _towards(start: Point, end: Point) -> Point:
    """Return the point at the distance of the radius from `start`, or halfway if that is nearer."""
    (x, y), (a, b) = start, end
    length = abs(a - x) + abs(b - y)
    share = min(RADIUS, length / 2) / length
    return x + share * (a - x), y + share * (b - y)
