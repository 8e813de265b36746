"""A network at a glance: its stages from image to logits, with shapes, parameters and work."""

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from cnnarch.analysis import Summary, count_parameters, stage_shapes, summary
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.viz._figure import BLUE, GRAY, ORANGE, cut, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["diagram"]

WIDTH, ROW = 6.9, 0.52  # inches: a page, and the height of a row
BOX = 0.0, 0.44  # left end and width of the boxes, as shares of the page
SHAPE, PARAMETERS, WORK, END = 0.49, 0.66, 0.84, 1.0  # left ends of the columns


class Row(NamedTuple):
    """A part of a network."""

    name: str
    contents: str
    shape: tuple[int, ...]
    params: int
    macs: int


def diagram(model: ImageClassifier, input_size: tuple[int, int, int] | None = None) -> "Figure":
    """Stages from top to bottom, with what is in them, what they give and what they cost.

    Bars show each stage's share of all parameters and of all multiply-adds. Auxiliary heads,
    which only training uses, are below the head.

    Args:
        model: a network of this package, on any device.
        input_size: `(C, H, W)` of the image; None takes the size on the network's card.

    Raises:
        ValueError: no size was given and the network has no card.
    """
    found = summary(model, input_size)
    rows = _rows(model, found)
    figure = new_figure(WIDTH, ROW * (len(rows) + 2.2))
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(len(rows) + 1.6, -1.0))
    axes.set_axis_off()
    heads = ((BOX[0], found.name), (SHAPE, "gives"), (PARAMETERS, "parameters"), (WORK, "MACs"))
    for x, text in heads:
        axes.text(x, -0.7, text, fontsize=9, fontweight="bold", va="center")
    _box(axes, 0, "image", "", "white")
    axes.text(SHAPE, 0, _sized(found.input_size), fontsize=8, va="center")
    params, macs = (max(1, sum(getattr(r, name) for r in rows)) for name in ("params", "macs"))
    head = len(model.stages) + 2
    for y, row in enumerate(rows, 1):
        if y <= head:  # auxiliary heads are below it, where nothing leads
            _arrow(axes, y)
        _box(axes, y, row.name, row.contents, "#EAF2F8" if y < head else "#FDF3DF")
        axes.text(SHAPE, y, _sized(row.shape), fontsize=8, va="center")
        _share(axes, PARAMETERS, WORK, y, row.params, params, BLUE)
        _share(axes, WORK, END, y, row.macs, macs, ORANGE)
    total = len(rows) + 1
    axes.plot((SHAPE, END), (total - 0.45,) * 2, color=GRAY, linewidth=0.6)
    axes.text(SHAPE, total, "in all", fontsize=8, va="center")
    axes.text(PARAMETERS, total, f"{found.params:,}", fontsize=8, va="center")
    axes.text(WORK, total, f"{found.macs:,}", fontsize=8, va="center")
    return figure


def _rows(model: ImageClassifier, found: Summary) -> list[Row]:
    names = [info.name for info in model.feature_info] + ["head"]
    paths = ["stem", *(f"stages.{i}" for i in range(len(model.stages))), "head"]
    # A stage's last layer may be one branch of several: the shape is that of the whole stage.
    shapes = stage_shapes(model, found.input_size)
    rows = []
    for name, path in zip(names, paths, strict=True):
        module = model.get_submodule(path)
        macs = sum(row.macs for row in found.rows if f"{row.path}.".startswith(f"{path}."))
        rows.append(Row(name, _contents(module), shapes[path], count_parameters(module), macs))
    for name, module in model.named_children():
        count = count_parameters(module)
        if name not in ("stem", "stages", "head") and count:
            rows.append(Row(name, "in training alone", (model.num_classes,), count, 0))
    return rows


def _arrow(axes: "Axes", y: float) -> None:
    """From the row above into this one."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": GRAY, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (BOX[1] / 2, y - 0.36), (BOX[1] / 2, y - 0.64), arrowprops=style)


def _contents(module: nn.Module) -> str:
    """Its children in order, those of a kind that follow each other counted: "3 x Bottleneck"."""
    kinds: list[tuple[str, int]] = []
    for child in module.children():
        kind = type(child).__name__
        if isinstance(child, nn.Flatten | nn.Dropout | nn.Identity):
            continue
        if kinds and kinds[-1][0] == kind:
            kinds[-1] = (kind, kinds[-1][1] + 1)
        else:
            kinds.append((kind, 1))
    words = [kind if count == 1 else f"{count} x {kind}" for kind, count in kinds]
    return ", ".join(words) or type(module).__name__


def _box(axes: "Axes", y: float, name: str, contents: str, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, width = BOX
    style = "round,pad=0,rounding_size=0.012"
    axes.add_patch(
        FancyBboxPatch(
            (left, y - 0.36), width, 0.72, boxstyle=style, facecolor=color, edgecolor=GRAY
        )
    )
    middle = left + width / 2
    up = 0.14 if contents else 0
    axes.text(middle, y - up, name, fontsize=8.5, fontweight="bold", ha="center", va="center")
    contents = cut(contents, 46)
    axes.text(middle, y + 0.17, contents, fontsize=6.5, ha="center", va="center", color=GRAY)


def _share(
    axes: "Axes", left: float, right: float, y: float, value: int, whole: int, color: str
) -> None:
    """A number, and under it a bar of its share."""
    axes.text(left, y - 0.1, f"{value:,}", fontsize=8, va="center")
    axes.barh(y + 0.22, (right - left - 0.04) * value / whole, 0.12, left=left, color=color)


def _sized(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
