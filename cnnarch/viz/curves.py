"""Curves of training: one network in detail, or several beside each other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnnarch.viz._figure import BLUE, GRAY, GREEN, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Figures", "comparison", "curves"]

Figures = Mapping[str, Sequence[float]]
"""Figures of each epoch by name: a `History`, or lists or tensors called "train_loss" etc."""

SPLITS = (
    ("train", "training", BLUE, "-"),
    ("val", "validation", ORANGE, "-"),
    ("test", "test", GREEN, "--"),
)

STYLES = ("-", "--", ":")  # for each ten colours
MOST_INSIDE = 6  # entries of a legend that leave the curves room


def curves(history: Figures) -> "Figure":
    """Loss and accuracy by epoch, of training, validation and test as far as they are there.

    Auxiliary losses are dotted.

    Args:
        history: figures called "train_loss", "val_acc", "train_aux1_loss" and so on.

    Raises:
        ValueError: there is no loss and no accuracy.
    """
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    for prefix, label, color, style in SPLITS:
        for axes, figure_name, scale in ((left, "loss", 1), (right, "acc", 100)):
            values = history.get(f"{prefix}_{figure_name}")
            if values is not None:
                _draw(axes, values, scale, label=label, color=color, linestyle=style)
    for i, style in ((1, ":"), (2, "-.")):
        values = history.get(f"train_aux{i}_loss")
        if values is not None:
            _draw(left, values, 1, label=f"auxiliary head {i}", color=GRAY, linestyle=style)
    if not (left.lines or right.lines):
        raise ValueError(f"there is no loss and no accuracy among {', '.join(history)}")
    _finish(left, "Loss")
    _finish(right, "Accuracy (%)")
    return figure


def comparison(histories: Mapping[str, Figures]) -> "Figure":
    """Accuracy of several networks by epoch: in training, and on test or validation images.

    Args:
        histories: figures of each network by its name.

    Raises:
        ValueError: there is no network, or one without accuracies.
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
    if len(left.lines) > MOST_INSIDE and right.lines:  # the other legend has the same names
        left.get_legend().remove()
    return figure


def _draw(axes: "Axes", values: Sequence[float], scale: float, **style: Any) -> None:
    points = [scale * float(value) for value in values]
    marker = "o" if len(points) < 3 else ""  # a line of one point is no line
    axes.plot(range(1, len(points) + 1), points, marker=marker, markersize=4, **style)


def _finish(axes: "Axes", quantity: str, title: str = "") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(xlabel="Epoch", ylabel=quantity, title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.lines) > MOST_INSIDE:
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    elif axes.lines:
        axes.legend(framealpha=0.8, edgecolor="none")
