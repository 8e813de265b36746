"""Which classes a network takes for which."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cnnarch.viz._figure import in_any_script, new_figure, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["confusion_matrix"]

LONGEST = 24  # letters of a name
WRITTEN = 20  # classes up to which names and numbers are written


def confusion_matrix(
    counts: Tensor | Sequence[Sequence[int]], classes: Sequence[str] | None = None
) -> "Figure":
    """Numbers of images by label and prediction, coloured by the share of the label's images.

    Args:
        counts: a square; rows are labels, columns predictions, as `evaluate` gives it.
        classes: names of the classes.

    Raises:
        ValueError: it is not a square, or has not as many classes as names.
    """
    table = torch.as_tensor(counts).double()
    if table.dim() != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"expected a square of counts, got shape {tuple(table.shape)}")
    count = len(table)
    known = map(str, range(count)) if classes is None else classes
    names = [short(name, LONGEST) for name in known]
    if len(names) != count:
        raise ValueError(f"{count} classes need as many names, got {len(names)}")
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    side = min(7.0, 2.2 + 0.45 * count)
    figure = new_figure(side + 0.6, side)
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="Predicted", ylabel="True")
    if count <= WRITTEN:
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(count), names, **(slanted if max(map(len, names)) > 2 else {}))
        axes.set_yticks(range(count), names)
        size = max(5.0, 9 - count / 5)
        axes.tick_params(labelsize=size)
        for row, line in enumerate(table.tolist()):
            for column, number in enumerate(line):
                if number:
                    color = "white" if shares[row, column] > 0.5 else "black"
                    style: dict[str, Any] = {
                        "ha": "center",
                        "va": "center",
                        "fontsize": size,
                        "color": color,
                    }
                    axes.text(column, row, f"{number:.0f}", **style)
    figure.colorbar(image, ax=axes, label="Share of the true class", shrink=0.8)
    return in_any_script(figure)
