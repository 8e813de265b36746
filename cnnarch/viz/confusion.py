"""Confusion matrices."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from cnnarch.viz._figure import add_fallback_fonts, new_figure, short_names

NAME_LENGTH = 24  # maximum length of a class name
MAX_LABELED = 50  # maximum number of classes to draw with all names and numbers
MAX_TICKS = 20  # number of names on an axis for more classes


def confusion_matrix(
    counts: Tensor | Sequence[Sequence[int]], classes: Sequence[str] | None = None
) -> Figure:
    """Draw a confusion matrix, with cells colored by their fraction of the label's images.

    Args:
        counts: a square matrix as returned by `evaluate`: rows are labels, columns are predictions.
        classes: class names.

    Raises:
        ValueError: the matrix is not square, or its size differs from the number of names.
    """
    table = torch.as_tensor(counts).double()
    if table.dim() != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"expected a square matrix of counts, got shape {tuple(table.shape)}")
    count = len(table)
    names = list(classes or map(str, range(count)))
    if len(names) != count:
        raise ValueError(f"expected {count} class names, got {len(names)}")
    short = short_names(names, NAME_LENGTH)
    names = [short[name] for name in names]
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    is_labeled = count <= MAX_LABELED
    side = max(min(7.0, 2.2 + 0.45 * count), 0.35 * count if is_labeled else 0)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="Predicted", ylabel="True")
    step = 1 if is_labeled else -(-count // MAX_TICKS)
    ticks, labels = range(0, count, step), names[::step]
    slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(ticks, labels, **(slanted if max(map(len, labels)) > 2 else {}))
    axes.set_yticks(ticks, labels)
    size = max(5.0, 9 - len(labels) / 5)
    axes.tick_params(labelsize=size)
    for row, column in table.nonzero().tolist() if is_labeled else ():
        color = "white" if shares[row, column] > 0.5 else "black"
        text = axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center")
        text.set(fontsize=size, color=color)
    figure.colorbar(image, ax=axes, label="Fraction of the true class", shrink=0.8)
    return add_fallback_fonts(figure)
