"""Training curves of loss and accuracy."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnarch.viz._figure import BLUE, GRAY, GREEN, ORANGE, new_figure

Figures = Mapping[str, Sequence[float]]
"""Per-epoch metrics, keyed by name such as "train_loss": a `History`, or lists or tensors."""

SPLITS = (
    ("train", "training", BLUE, "-"),
    ("val", "validation", ORANGE, "-"),
    ("test", "test", GREEN, "--"),
)

STYLES = ("-", "--", ":")  # each line style is used for ten colors
MAX_INSIDE = 6  # maximum number of legend entries inside the axes


def curves(history: Figures) -> Figure:
    """Draw loss and accuracy by epoch for the training, validation and test images.

    The losses of auxiliary heads are drawn in gray.

    Args:
        history: metrics such as "train_loss", "val_acc" and "train_aux1_loss".

    Raises:
        ValueError: the history contains neither a loss nor an accuracy.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    for prefix, label, color, style in SPLITS:
        for axes, metric, scale in ((left, "loss", 1), (right, "acc", 100)):
            values = history.get(f"{prefix}_{metric}")
            if values is not None:
                _draw(axes, values, scale, label=label, color=color, linestyle=style)
    for i, style in ((1, ":"), (2, "-.")):
        values = history.get(f"train_aux{i}_loss")
        if values is not None:
            _draw(left, values, 1, label=f"auxiliary head {i}", color=GRAY, linestyle=style)
    if not (left.lines or right.lines):
        raise ValueError(f"the history contains no loss or accuracy, only {', '.join(history)}")
    _finish(left, "Loss")
    _finish(right, "Accuracy (%)")
    return figure


def comparison(histories: Mapping[str, Figures]) -> Figure:
    """Draw the training and test (or validation) accuracy of several networks by epoch.

    Args:
        histories: each network's metrics, keyed by network name.

    Raises:
        ValueError: there are no networks, or a network has no training accuracy.
    """
    if not histories:
        raise ValueError("there are no networks to compare")
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    held_out = "test" if any("test_acc" in h for h in histories.values()) else "validation"
    for i, (name, history) in enumerate(histories.items()):
        if "train_acc" not in history:
            raise ValueError(f"{name} has no training accuracy")
        style = {"color": f"C{i}", "linestyle": STYLES[i // 10 % len(STYLES)]}
        _draw(left, history["train_acc"], 100, label=name, **style)
        values = history.get("test_acc" if held_out == "test" else "val_acc")
        if values is not None:
            _draw(right, values, 100, label=name, **style)
    _finish(left, "Accuracy (%)", "Training")
    _finish(right, "", held_out.capitalize())
    if len(left.lines) > MAX_INSIDE and right.lines:  # the right legend shows the same names
        left.get_legend().remove()
    return figure


def _draw(axes: Axes, values: Sequence[float], scale: float, **style: Any) -> None:
    points = [scale * float(value) for value in values]
    marker = "o" if len(points) < 3 else ""  # a line needs two points
    axes.plot(range(1, len(points) + 1), points, marker=marker, markersize=4, **style)


def _finish(axes: Axes, quantity: str, title: str = "") -> None:
    axes.set(xlabel="Epoch", ylabel=quantity, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > MAX_INSIDE:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    elif axes.lines:
        axes.legend(framealpha=0.8, edgecolor="none")
