"""Place the boxes of a block: the flow goes down, and branches are side by side."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import NamedTuple

import networkx as nx

from cnnarch.viz._layer_text import ARITHMETIC

GAP = 0.3  # between boxes one below the other, in inches
FORK_GAP = 0.44  # where branches leave or meet
COLUMN_GAP = 0.2  # between branches
SKIP_WIDTH = 0.2  # of a branch without boxes

Point = tuple[float, float]
Edge = tuple[int, int, int]
START, END = -1, -2  # they precede the inputs and follow the outputs, and are not drawn


class Size(NamedTuple):
    """The size of a box in inches."""

    width: float
    height: float


@dataclass
class Placement:
    """Boxes at positions relative to the axis on which the flow enters and leaves; y points down.

    Args:
        left: extent to the left of the axis, in inches.
        right: extent to the right of the axis.
        height: extent below the point where the flow enters.
        boxes: the top center of each box.
        routes: how an edge runs if not straight down: ("fork", x) leaves the axis below its first
            box and continues at x, ("merge", x) runs at x and meets the axis above its last box,
            and ("skip", x) does both.
    """

    left: float = 0
    right: float = 0
    height: float = 0
    boxes: dict[int, Point] = field(default_factory=dict)
    routes: dict[Edge, tuple[str, float]] = field(default_factory=dict)

    def add(self, part: "Placement", x: float, y: float) -> None:
        """Insert another layout with its axis at `x` and its top at `y`."""
        self.left, self.right = max(self.left, part.left - x), max(self.right, part.right + x)
        self.height = max(self.height, y + part.height)
        self.boxes |= {node: (x + a, y + b) for node, (a, b) in part.boxes.items()}
        self.routes |= {edge: (kind, x + column) for edge, (kind, column) in part.routes.items()}


def lay_out(
    graph: nx.MultiDiGraph, sizes: Mapping[int, Size], labels: Mapping[Edge, float]
) -> Placement:
    """Return the positions of the boxes of a graph from `block_graph`.

    Args:
        graph: the boxes and arrows.
        sizes: the size of each box.
        labels: the widths of the texts to the right of arrows.
    """
    whole = nx.MultiDiGraph(graph)
    whole.add_edges_from((START, node) for node in graph if not graph.in_degree(node))
    whole.add_edges_from((node, END) for node in graph if not graph.out_degree(node))
    return _Placer(whole, sizes, labels).between(START, END, set(graph), above=0, below=0)


class _Placer:
    """Divides a graph into series and parallel branches, and places these."""

    def __init__(
        self, graph: nx.MultiDiGraph, sizes: Mapping[int, Size], labels: Mapping[Edge, float]
    ) -> None:
        self.graph = graph
        self.sizes = sizes
        self.labels = labels
        self.order = {node: i for i, node in enumerate(nx.topological_sort(graph))}

    def between(
        self, start: int, end: int, nodes: set[int], *, above: int = 1, below: int = 1
    ) -> Placement:
        """Place `nodes`, which lie on the ways from `start` to `end`, and the gaps around them.

        Args:
            start: the box above.
            end: the box below.
            nodes: the boxes between them.
            above: 0 to leave no gap above the boxes, else 1.
            below: 0 to leave no gap below the boxes, else 1.
        """
        found = nx.weakly_connected_components(self.graph.subgraph(nodes))
        parts = [(self.operand(end, part), self.branch(start, end, part)) for part in found]
        for key in self.graph.get_edge_data(start, end, default={}):
            skip = self.arrow((start, end, key))
            parts.append((self.graph.edges[start, end, key].get("operand", 0), skip))
        if not nodes and len(parts) == 1:
            return Placement(height=GAP * above * below)
        inside = self.graph.subgraph({start, end, *nodes})
        forks = len(inside.out_edges(start)) > 1 or len(inside.in_edges(end)) > 1
        gap = FORK_GAP if forks else GAP
        branches = [layout for _, layout in sorted(parts, key=lambda part: part[0])]
        whole = Placement()
        whole.add(self.side_by_side(branches, end), 0, gap * above)
        whole.height += gap * below
        return whole

    def side_by_side(self, branches: list[Placement], end: int) -> Placement:
        """Place branches in this order, or with the longest one first if they are added.

        The flow enters and leaves on the axis of the longest branch, or else in the middle.
        """
        is_sum = end != END and self.graph.nodes[end]["box"].lines[0] in ARITHMETIC
        if is_sum:
            branches = sorted(branches, key=lambda branch: -len(branch.boxes))
        right, columns = -COLUMN_GAP, []
        for branch in branches:
            columns.append(right + COLUMN_GAP + branch.left)
            right = columns[-1] + branch.right
        filled = [x for x, branch in zip(columns, branches, strict=True) if branch.boxes]
        is_centered = len(filled) != 1 and not is_sum
        axis = (columns[0] + columns[-1]) / 2 if is_centered else (filled or columns)[0]
        height = max(branch.height for branch in branches)
        whole = Placement()
        for x, branch in zip(columns, branches, strict=True):
            whole.add(branch, x - axis, (height - branch.height) / 2)
        return whole

    def branch(self, start: int, end: int, nodes: set[int]) -> Placement:
        """Place a branch from `start` to `end` without the gaps before its first and last box."""
        cuts = self.cuts(start, end, nodes)
        layout = self.series([start, *cuts, end], nodes) if cuts else self.rows(start, end, nodes)
        for edge in self.graph.subgraph({start, *nodes}).out_edges(start, keys=True):
            layout.routes.setdefault(edge, ("fork", layout.boxes[edge[1]][0]))
        for edge in self.graph.subgraph({end, *nodes}).in_edges(end, keys=True):
            layout.routes.setdefault(edge, ("merge", layout.boxes[edge[0]][0]))
        return layout

    def series(self, path: list[int], nodes: set[int]) -> Placement:
        """Place the inner boxes of a path one below the other, and what lies between them."""
        layout = Placement()
        for a, b in pairwise(path):
            inside = {n for n in nodes if self.order[a] < self.order[n] < self.order[b]}
            inside = {n for n in inside if self.leads(a, n, nodes) and self.leads(n, b, nodes)}
            ends = {"above": int(a != path[0]), "below": int(b != path[-1])}
            layout.add(self.between(a, b, inside, **ends), 0, layout.height)
            if b != path[-1]:
                layout.add(self.box(b), 0, layout.height)
        return layout

    def leads(self, a: int, b: int, nodes: set[int]) -> bool:
        return nx.has_path(self.graph.subgraph({a, b, *nodes}), a, b)

    def box(self, node: int) -> Placement:
        size = self.sizes[node]
        edges = [*self.graph.in_edges(node, keys=True), *self.graph.out_edges(node, keys=True)]
        right = max(size.width / 2, *(self.labels.get(edge, 0) for edge in edges))
        return Placement(size.width / 2, right, size.height, {node: (0, 0)})

    def arrow(self, edge: Edge) -> Placement:
        """Place an arrow that passes beside the boxes."""
        right = max(SKIP_WIDTH / 2, self.labels.get(edge, 0))
        return Placement(SKIP_WIDTH / 2, right, routes={edge: ("skip", 0)})

    def rows(self, start: int, end: int, nodes: set[int]) -> Placement:
        """Place branches that are not nested: each box is below all those that it reads."""
        inside = self.graph.subgraph(nodes)
        rows = list(nx.topological_generations(inside))
        columns = self.columns(start, end, rows)
        x, right = dict[int | Edge, float](), -COLUMN_GAP
        for column in columns:
            parts = [self.box(i) if isinstance(i, int) else self.arrow(i) for i in column]
            center = right + COLUMN_GAP + max(part.left for part in parts)
            right = center + max(part.right for part in parts)
            x |= dict.fromkeys(column, center)
        axis = x[max(columns, key=len)[0]]
        layout = Placement()
        for row in rows:
            top = layout.height + (FORK_GAP if layout.boxes else 0)
            for node in row:
                layout.add(self.box(node), x[node] - axis, top)
        for a, b, key in inside.edges(keys=True):
            kind = "fork" if x[a] == x[b] else "merge"
            layout.routes[a, b, key] = (kind, x[a] - axis)
        for item, column_x in x.items():
            if not isinstance(item, int):
                layout.add(self.arrow(item), column_x - axis, 0)
        return layout

    def columns(self, start: int, end: int, rows: list[list[int]]) -> list[list[int | Edge]]:
        """Return the boxes in each column, and columns of single arrows, from left to right.

        Arrows that would pass a box or the text of another arrow have their own columns, on the
        outer side of the boxes.
        """
        row_of = {node: i for i, row in enumerate([[start], *rows, [end]]) for node in row}
        columns = self.columns_of_boxes(row_of, rows)
        column_of = {node: i for i, column in enumerate(columns) for node in column}
        below = dict(pair for column in columns for pair in pairwise(column))
        groups: list[list[list[int | Edge]]] = [[[*column]] for column in columns]
        edges = self.graph.subgraph(row_of).edges(keys=True)
        for edge in sorted(edges, key=lambda edge: row_of[edge[1]] - row_of[edge[0]]):
            a, b, _ = edge
            if a == start:
                is_free = b == end or columns[column_of[b]][0] == b
            else:
                is_short = row_of[b] == row_of[a] + 1 and edge not in self.labels
                is_free = is_short or below.setdefault(a, b) == b
            if not is_free:
                i = column_of[b if a == start else a]
                is_right = 2 * i + (a == start) >= len(columns)
                groups[i].insert(len(groups[i]) if is_right else 0, [edge])
        return [column for group in groups for column in group]

    def columns_of_boxes(self, row_of: Mapping[int, int], rows: list[list[int]]) -> list[list[int]]:
        """Return columns in which each box continues the column of one that it reads, if any."""
        columns: list[list[int]] = []
        for node in chain.from_iterable(rows):
            ends = [column for column in columns if self.graph.has_edge(column[-1], node)]
            column = max(ends, key=lambda column: row_of[column[-1]], default=[])
            if not column:
                columns.append(column)
            column.append(node)
        return columns

    def cuts(self, start: int, end: int, nodes: set[int]) -> list[int]:
        """Return the nodes through which all ways from `start` to `end` pass, in order."""
        inside = self.graph.subgraph({start, end, *nodes})
        ordered = sorted(inside, key=self.order.__getitem__)
        before, after = dict.fromkeys(ordered, 0), dict.fromkeys(ordered, 0)  # numbers of ways
        before[start] = after[end] = 1
        for node in ordered:
            before[node] += sum(before[a] for a, _ in inside.in_edges(node))
        for node in reversed(ordered):
            after[node] += sum(after[b] for _, b in inside.out_edges(node))
        direct = self.graph.number_of_edges(start, end)
        total = before[end] - direct
        return [n for n in ordered if n in nodes and before[n] * after[n] == total]

    def operand(self, end: int, nodes: set[int]) -> int:
        """Return the position of a branch's output among the inputs of `end`."""
        edges = self.graph.in_edges(end, data="operand", default=0)
        return min(operand for node, _, operand in edges if node in nodes)
