"""Grids of images with their classes or predictions."""

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.modes import evaluating
from cnnarch.preprocessing import Preprocessing
from cnnarch.viz._figure import (
    GREEN,
    RED,
    Images,
    add_fallback_fonts,
    new_figure,
    select_images,
    show_image,
)
from cnnarch.viz._photographs import is_photographs

CELL = 1.25  # inches per image
SQUARES = Preprocessing(224, 224, mean=(0.0,) * 3, std=(1.0,) * 3)  # for photographs in a grid
NAME_LENGTH = 14  # maximum length of a class name
NAME_LENGTH_WITH_PROBABILITY = 10  # followed by " (100%)"


def data_grid(
    images: Images,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    rows: int = 4,
    columns: int = 8,
) -> Figure:
    """Show images with their class names.

    Args:
        images: a data set such as `data.train`, network inputs as floats (N, C, H, W), or
            photographs of any kind that `gradcam` accepts.
        labels: class indices of the images in a tensor.
        classes: class names.
        preprocessing: normalization to undo for the images in a tensor; None rescales the
            values to [0, 1] if any lie outside that range.
        rows: maximum number of rows.
        columns: number of images per row.

    Raises:
        ValueError: the images are not (N, C, H, W), or there are fewer labels than images.
    """
    if preprocessing is None and is_photographs(images):
        preprocessing = SQUARES
    selection = select_images(images, rows * columns, labels, classes, preprocessing)
    titles = selection.names(selection.labels or (), NAME_LENGTH)
    count = len(selection.inputs)
    return _grid(selection.pixels(), titles or [""] * count, [None] * count, columns)


def predictions(
    model: nn.Module,
    images: Images,
    labels: Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    rows: int = 5,
    columns: int = 10,
) -> Figure:
    """Show images with the predicted class and its probability.

    If the labels are known, correct predictions have a green frame, and wrong predictions have a
    red frame and the true class below the prediction.

    Args:
        model: a classifier; its mode is restored afterwards.
        images: photographs (paths, file contents as bytes, open files, Pillow images, or uint8
            arrays (H, W, C) or tensors (C, H, W)), a data set such as
            `data.test`, or a tensor of network inputs (N, C, H, W).
        labels: class indices of the images in a tensor.
        classes: class names; None uses the network's own, if it has any.
        preprocessing: normalization of the images in a tensor; None uses the network's own.
        rows: maximum number of rows.
        columns: number of images per row.

    Raises:
        ValueError: the images are not (N, C, H, W), there are fewer labels than images, a class
            has no name, or the logits contain NaN.
    """
    model = unwrapped(model)
    selection = select_images(images, rows * columns, labels, classes, preprocessing, model)
    with evaluating(model):
        device = next(model.parameters()).device
        logits = model(selection.inputs.to(device)).float()
    if logits.shape[1] == 1:  # as in Predictor, the probability of the only class
        found, indices = logits.sigmoid()[:, 0], torch.zeros(len(logits), dtype=torch.long)
    else:
        found, indices = logits.softmax(1).max(1)
    if found.isnan().any():
        raise ValueError("the network's logits contain NaN")
    titles: list[str] = []
    colors: list[str | None] = []
    names = selection.names(indices.tolist(), NAME_LENGTH_WITH_PROBABILITY)
    true_names = selection.names(selection.labels or (), NAME_LENGTH_WITH_PROBABILITY)
    for i, (index, probability) in enumerate(zip(indices.tolist(), found.tolist(), strict=True)):
        label = None if selection.labels is None else selection.labels[i]
        titles.append(f"{names[i]} ({probability:.0%})")
        colors.append(None if label is None else GREEN if label == index else RED)
        if label not in (None, index):
            titles[-1] += f"\ntrue: {true_names[i]}"
    figure = _grid(selection.pixels(), titles, colors, columns)
    if selection.labels is not None:
        figure.suptitle(f"{colors.count(GREEN)} of {len(colors)} correct", fontsize=9)
    return figure


def _grid(
    pixels: Sequence[Any], titles: Sequence[str], colors: Sequence[str | None], columns: int
) -> Figure:
    columns = min(columns, len(pixels))
    rows = -(-len(pixels) // columns)
    figure = new_figure(columns * CELL, rows * (CELL + 0.2))
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, image, title, color in zip(cells, pixels, titles, colors, strict=False):
        show_image(axes, image, color)
        axes.set_title(title, fontsize=7, pad=3, color=RED if color == RED else "black")
    for axes in cells[len(pixels) :]:
        axes.set_axis_off()
    return add_fallback_fonts(figure)
