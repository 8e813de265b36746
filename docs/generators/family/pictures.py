"""Draw a family: its block, the diagram of one network, and its outline for the index."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from cnnarch.facts.cards import ModelCard
from cnnarch.facts.text import shape_text
from cnnarch.viz import diagram

from ..blocks import draw_block, network
from ..text import write
from .code import formulas_of
from .rows import measure

WIDTH, HEIGHT, GAP = 280, 84, 5  # of the outline, in pixels
FILL = "#5b8def"


def block_section(card: ModelCard, folder: Path) -> list[str]:
    """Draw the typical block of a family; its formulas follow."""
    path, alt = draw_block(card.family, folder)
    return ["## The block", image(path, alt), *formulas_of(card)]


def network_section(card: ModelCard, folder: Path) -> list[str]:
    """Draw the diagram of a network to `folder`/diagrams."""
    path = folder / "diagrams" / f"{card.family}.svg"
    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": card.family}):
        diagram(network(card.name)).savefig(path, metadata={"Date": None})
    stages = ", ".join(f"{name} {shape_text(shape)}" for name, shape in stage_maps(card).items())
    alt = (
        f"Diagram of {card.name}, from top to bottom: {stages}, and the head. Bars show each "
        "part's share of the parameters and the MACs."
    )
    text = f"The stages of `{card.name}` with their layers, output shapes and costs:"
    return ["## The network", text, image(f"diagrams/{path.name}", alt)]


def stage_maps(card: ModelCard) -> dict[str, tuple[int, ...]]:
    """Return the output shape of the stem and of each stage."""
    measured = measure(card.name)
    return {name: measured.summary.shapes[path] for name, path in measured.stages.items()}


def image(path: str, alt: str) -> str:
    return f"```{{image}} {path}\n:alt: {alt}\n```"


def draw_outline(card: ModelCard, folder: Path) -> str:
    """Draw one box for each map of a network, as high as the map and wider for more channels.

    Returns:
        The image in Markdown.
    """
    path = folder / "outlines" / f"{card.family}.svg"
    path.parent.mkdir(exist_ok=True)
    shapes = {"image": card.input_size, **stage_maps(card)}
    write(path, _outline(list(shapes.values())))
    maps = ", ".join(shape_text(shape) for shape in shapes.values())
    return image(f"outlines/{path.name}", f"Maps of {card.name}: {maps}.")


def _outline(shapes: Sequence[tuple[int, ...]]) -> str:
    sides = [_side(shape) for shape in shapes]
    wide = [_channels(shape) ** 0.5 for shape in shapes]
    scale = (WIDTH - GAP * (len(shapes) - 1)) / sum(wide)
    x, boxes = 0.0, []
    for side, width in zip(sides, wide, strict=True):
        height = max(3.0, HEIGHT * (side / max(sides)) ** 0.5)
        top = (HEIGHT - height) / 2
        boxes.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{width * scale:.1f}" '
            f'height="{height:.1f}" rx="2" fill="{FILL}"/>'
        )
        x += width * scale + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">{"".join(boxes)}</svg>\n'
    )


def _side(shape: tuple[int, ...]) -> float:
    """Return the height of a map, or the square root of the number of tokens."""
    return float(shape[1]) if len(shape) == 3 else float(shape[0]) ** 0.5


def _channels(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else shape[-1]
