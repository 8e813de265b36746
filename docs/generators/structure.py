"""Draw a map of the package with an arrow from each part to every part that it imports."""

import ast
from pathlib import Path

import networkx as nx
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .imports import IMPORTS, ROOT, part_of
from .text import table, write

PLACES = {  # column and row of each box; the arrows come from the code
    **{"cli": (1.8, 6), "cnnarch": (3.8, 6)},
    **{"training": (4.5, 5)},
    **{"backbones": (0.7, 4), "testing": (2.1, 4), "viz": (3.4, 4), "inference": (5.4, 4)},
    **{"splits": (8, 4), "inputs": (7.4, 3), "contents": (6.1, 2)},
    **{"finetuning": (0, 3), "dilation": (1.15, 3), "analysis": (2.3, 3), "registry": (3.6, 3)},
    **{"models": (0, 2), "contract": (1.6, 2), "weights": (4.3, 2), "embedding": (6, 3)},
    **{"devices": (6.75, 4)},
    **{"preprocessing": (4.6, 1), "images": (6.1, 1)},
    **{"blocks": (1.1, 0), "facts": (3, 0), "folders": (8, 0)},
}
ARROWLESS = {"cli", "cnnarch"}  # these depend on all other parts
HIDDEN = {"_version", "__main__"}
NETWORKS = {"blocks", "contract", "facts", "models"}  # the parts that define the networks
LABELS = {"cnnarch": "import cnnarch"}
COLUMN, ROW, WIDTH, HEIGHT = 1.5, 0.9, 1.3, 0.42  # inches
INK, LINE, BLUE, GRAY = "#1f2937", "#64748b", "#dbeafe", "#f1f5f9"


def write_pages(folder: Path) -> None:
    """Write the drawing to `structure.svg` and a table with one row per part to `parts.md`."""
    draw(part_graph()).savefig(folder / "structure.svg", metadata={"Date": None})
    rows = [(f"`{part}`", first_line(part)) for part in PLACES]
    write(folder / "parts.md", table(("part", "purpose"), rows))


def part_graph() -> nx.DiGraph:
    """Return the imports between parts, except those implied by other imports.

    An import that happens only inside functions has the attribute `deferred`.
    """
    edges = {
        (part_of(module), part_of(i.module), i.deferred)
        for module, imports in IMPORTS.items()
        for i in imports
    }
    shown = sorted(e for e in edges if e[0] != e[1] and not {*e[:2]} & HIDDEN)
    graph = nx.transitive_reduction(nx.DiGraph((a, b) for a, b, deferred in shown if not deferred))
    for a, b, _ in shown:
        if not nx.has_path(graph, a, b):
            graph.add_edge(a, b, deferred=True)
    return graph


def draw(graph: nx.DiGraph) -> Figure:
    """Draw the boxes and arrows; imports that happen only inside functions are dashed.

    Raises:
        KeyError: a part of the package has no position on the map.
    """
    centers = {part: (PLACES[part][0] * COLUMN, PLACES[part][1] * ROW) for part in graph}
    right, top = (max(center[i] for center in centers.values()) for i in range(2))
    figure = Figure(figsize=(right + WIDTH + 0.2, top + HEIGHT + 0.2))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-WIDTH / 2 - 0.1, right + WIDTH / 2 + 0.1)
    axes.set_ylim(-HEIGHT / 2 - 0.1, top + HEIGHT / 2 + 0.1)
    boxes = {part: box(part, *center) for part, center in centers.items()}
    for part, patch in boxes.items():
        axes.add_patch(patch)
        axes.text(*centers[part], LABELS.get(part, part), ha="center", va="center", color=INK)
    for a, b, deferred in graph.edges.data("deferred"):
        if a not in ARROWLESS:
            arrow = FancyArrowPatch(
                centers[a],
                centers[b],
                patchA=boxes[a],
                patchB=boxes[b],
                arrowstyle="-|>",
                mutation_scale=11,
                color=LINE,
                linestyle="--" if deferred else "-",
            )
            axes.add_patch(arrow)
    return figure


def box(part: str, x: float, y: float) -> FancyBboxPatch:
    """Return a part's box, centered at a point."""
    return FancyBboxPatch(
        (x - WIDTH / 2, y - HEIGHT / 2),
        WIDTH,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=BLUE if part in NETWORKS else GRAY,
        edgecolor=LINE,
    )


def first_line(part: str) -> str:
    """Return the first line of a part's module docstring."""
    candidates = (ROOT / f"{part}.py", ROOT / part / "__init__.py", ROOT / "__init__.py")
    path = next(path for path in candidates if path.is_file())
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
