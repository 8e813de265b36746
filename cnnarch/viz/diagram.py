"""A diagram of a network: its stages with shapes, parameters and multiply-adds."""

from itertools import groupby
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

from cnnarch.analysis import Summary, count_parameters, summary
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.layers import stage_layers
from cnnarch.facts.text import shape_text
from cnnarch.viz._figure import BLUE, GRAY, ORANGE, new_figure, truncate

WIDTH, HEIGHT = 6.9, 0.52  # page width and stage height in inches
BOX = 0.0, 0.44  # left end and width of the boxes, as fractions of the page width
SHAPE, PARAMETERS, MACS, END = 0.49, 0.66, 0.84, 1.0  # column boundaries


class DiagramRow(NamedTuple):
    """One row of the diagram: a stage, the stem or a head."""

    name: str
    contents: str
    shape: tuple[int, ...]
    params: int
    macs: int


def diagram(model: ImageClassifier, input_size: tuple[int, int, int] | None = None) -> Figure:
    """Draw the stages from top to bottom with their layers, shapes, parameters and multiply-adds.

    Bars show each stage's share of the total parameters and multiply-adds. Auxiliary heads,
    which run only in training mode, are drawn below the head.

    Args:
        model: a network of this package, on any device.
        input_size: `(C, H, W)`; None uses the size on the network's card.

    Raises:
        TypeError: the model is not a network of this package.
        ValueError: no size is given and the network has no card.
    """
    model = unwrapped(model)
    if not isinstance(model, ImageClassifier):
        kind = type(model).__name__
        raise TypeError(f"diagram needs a cnnarch network, whose stages it draws, got {kind}")
    found = summary(model, input_size)
    stages = _stages(model, found)
    figure = new_figure(WIDTH, HEIGHT * (len(stages) + 2.2))
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(len(stages) + 1.6, -1.0))
    axes.set_axis_off()
    heads = ((BOX[0], found.name), (SHAPE, "output"), (PARAMETERS, "parameters"), (MACS, "MACs"))
    for x, text in heads:
        axes.text(x, -0.7, text, fontsize=9, fontweight="bold", va="center")
    _box(axes, 0, "image", "", "white")
    axes.text(SHAPE, 0, shape_text(found.input_size, " x "), fontsize=8, va="center")
    params, macs = (max(1, sum(getattr(s, name) for s in stages)) for name in ("params", "macs"))
    head = len(model.stages) + 2
    for y, stage in enumerate(stages, 1):
        if y <= head:  # no arrows lead to auxiliary heads
            _arrow(axes, y)
        _box(axes, y, stage.name, stage.contents, "#EAF2F8" if y < head else "#FDF3DF")
        axes.text(SHAPE, y, shape_text(stage.shape, " x "), fontsize=8, va="center")
        _bar(axes, PARAMETERS, MACS, y, stage.params, params, BLUE)
        _bar(axes, MACS, END, y, stage.macs, macs, ORANGE)
    y = len(stages) + 1
    axes.plot((SHAPE, END), (y - 0.45,) * 2, color=GRAY, linewidth=0.6)
    for x, text in (SHAPE, "total"), (PARAMETERS, f"{found.params:,}"), (MACS, f"{found.macs:,}"):
        axes.text(x, y, text, fontsize=8, va="center")
    return figure


def _stages(model: ImageClassifier, found: Summary) -> list[DiagramRow]:
    # Use each stage's output shape, because its last layer may be in one of several branches.
    stages, shapes = [], found.shapes
    for name, path in {**stage_layers(model), "head": "head"}.items():
        module = unwrapped(model.get_submodule(path))  # it may be compiled
        parameters, macs = count_parameters(module), _macs(found, path)
        stages.append(DiagramRow(name, _contents(module), shapes[path], parameters, macs))
    for name, module in model.named_children():
        parameters = count_parameters(module)
        if name not in ("stem", "stages", "head") and parameters:
            shape, macs = shapes.get(name, (model.num_classes,)), _macs(found, name)
            stages.append(DiagramRow(name, "in training only", shape, parameters, macs))
    return stages


def _macs(found: Summary, path: str) -> int:
    """Return the multiply-adds of the layers in the module at `path` that ran."""
    return sum(row.macs for row in found.rows if f"{row.path}.".startswith(f"{path}."))


def _arrow(axes: Axes, y: float) -> None:
    """Draw an arrow from the previous box to the box at `y`."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": GRAY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (BOX[1] / 2, y - 0.36), (BOX[1] / 2, y - 0.64), arrowprops=style)


def _contents(module: nn.Module) -> str:
    """Return the child modules' types in order, such as "MaxPool2d, 3 x Bottleneck"."""
    ignored = nn.Flatten | nn.Dropout | nn.Identity
    types = [type(child).__name__ for child in module.children() if not isinstance(child, ignored)]
    counts = [(name, len(list(group))) for name, group in groupby(types)]
    texts = [name if count == 1 else f"{count} x {name}" for name, count in counts]
    return ", ".join(texts) or type(module).__name__


def _box(axes: Axes, y: float, name: str, contents: str, color: str) -> None:

    left, width = BOX
    style: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.012", "edgecolor": GRAY}
    axes.add_patch(FancyBboxPatch((left, y - 0.36), width, 0.72, facecolor=color, **style))
    middle = left + width / 2
    top = y - (0.14 if contents else 0)
    axes.text(middle, top, name, fontsize=8.5, fontweight="bold", ha="center", va="center")
    text = axes.text(middle, y + 0.17, truncate(contents, 46), ha="center", va="center")
    text.set(fontsize=6.5, color=GRAY)


def _bar(
    axes: Axes, left: float, right: float, y: float, value: int, total: int, color: str
) -> None:
    """Draw a number with a bar below it that shows its share of the total."""
    axes.text(left, y - 0.1, f"{value:,}", fontsize=8, va="center")
    axes.barh(y + 0.22, (right - left - 0.04) * value / total, 0.12, left=left, color=color)
