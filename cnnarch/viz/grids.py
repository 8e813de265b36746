"""Grids of images: what a network learns from, and what it makes of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from cnnarch.contract.modes import evaluating
from cnnarch.viz._figure import (
    GREEN,
    RED,
    LabelledImages,
    Normalisation,
    in_any_script,
    new_figure,
    short,
    show_image,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["data_grid", "predictions"]

CELL = 1.25  # inches an image
LONGEST = 14  # letters of a name above it
LONGEST_WITH_SHARE = 10  # beside " (100%)"


def data_grid(
    images: Tensor | LabelledImages,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Normalisation | None = None,
    rows: int = 4,
    columns: int = 8,
) -> "Figure":
    """Images with the names of their classes.

    Args:
        images: a set such as `data.train`, or a tensor (N, C, H, W).
        labels: class indices of a tensor's images.
        classes: names of the classes.
        preprocessing: how a tensor's images were normalised, which is undone; None shows
            what is not in [0, 1] by its range.
        rows: of images; fewer where the images do not fill them.
        columns: of images.

    Raises:
        ValueError: images that are not (N, C, H, W), or fewer labels than images.
    """
    some = shown(images, rows * columns, labels, classes, preprocessing)
    count = len(some.pixels)
    titles = [""] * count
    if some.labels is not None:
        titles = [short(some.name(label), LONGEST) for label in some.labels]
    return _grid(some.pixels, titles, [None] * count, columns)


def predictions(
    model: nn.Module,
    images: Tensor | LabelledImages,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Normalisation | None = None,
    rows: int = 5,
    columns: int = 10,
) -> "Figure":
    """Images with the class that a network sees and how sure it is; errors stand out.

    Where the label is known, a right answer has a green frame, and a wrong one a red frame and
    the label below it.

    Args:
        model: a classifier; its mode is put back afterwards.
        images: a set such as `data.test`, or a tensor (N, C, H, W) as the network reads it.
        labels: class indices of a tensor's images.
        classes: names of the classes; None takes the network's own, if it has them.
        preprocessing: how a tensor's images were normalised; None takes the network's own.
        rows: of images; fewer where the images do not fill them.
        columns: of images.

    Raises:
        ValueError: images that are not (N, C, H, W), fewer labels than images, a class without
            a name, or answers that are not numbers.
    """
    classes = classes or getattr(model, "categories", None)
    preprocessing = preprocessing or getattr(model, "preprocessing", None)
    some = shown(images, rows * columns, labels, classes, preprocessing)
    with evaluating(model):
        device = next(model.parameters()).device
        confidences, answers = model(some.inputs.to(device)).softmax(1).max(1)
    if confidences.isnan().any():
        raise ValueError("the network's answers to some images are not numbers")
    titles: list[str] = []
    colors: list[str | None] = []
    for i, (answer, sure) in enumerate(zip(answers.tolist(), confidences.tolist(), strict=True)):
        right = None if some.labels is None else answer == some.labels[i]
        title = f"{short(some.name(answer), LONGEST_WITH_SHARE)} ({sure:.0%})"
        if some.labels is not None and not right:
            title += f"\ntrue: {short(some.name(some.labels[i]), LONGEST_WITH_SHARE)}"
        titles.append(title)
        colors.append({None: None, True: GREEN, False: RED}[right])
    figure = _grid(some.pixels, titles, colors, columns)
    if some.labels is not None:
        figure.suptitle(f"{colors.count(GREEN)} of {len(colors)} right", fontsize=9)
    return figure


def _grid(
    pixels: Sequence[Any], titles: Sequence[str], colors: Sequence[str | None], columns: int
) -> "Figure":
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = new_figure(columns * CELL, rows * (CELL + 0.2))
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, image, title, color in zip(cells, pixels, titles, colors, strict=False):
        show_image(axes, image, color)
        axes.set_title(title, fontsize=7, pad=3, color=RED if color == RED else "black")
    for axes in cells[len(pixels) :]:
        axes.set_axis_off()
    return in_any_script(figure)
