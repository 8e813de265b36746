"""Feature maps and convolutional filters."""

from collections.abc import Sequence

import numpy as np
from captum.attr import LayerActivation
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.layers import layer_name, layer_path, stage_layers
from cnnarch.contract.modes import evaluating
from cnnarch.facts.text import shape_text
from cnnarch.preprocessing import Preprocessing
from cnnarch.viz._figure import Images, new_figure, select_images, show_image

CELL = 0.95  # inches per map


def feature_maps(
    model: nn.Module,
    image: Images,
    layers: Sequence[str] | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    columns: int = 8,
) -> Figure:
    """Show an image and the first maps of several layers, one row per layer.

    Each map is normalized by its own range; single-pixel maps, by the range of their layer.

    Args:
        model: any network; its mode is restored afterwards.
        image: a photograph (a path, the contents of a file as bytes, an open file, a Pillow image,
            or a uint8 array (H, W, C) or tensor (C, H, W)), a network input as floats (C, H, W) or
            (1, C, H, W), or a data set, whose first image is used.
        layers: stages such as "conv4_x" or module paths; None shows all stages.
        preprocessing: conversion or normalization of the image; None uses the network's own.
        columns: number of maps per layer.

    Raises:
        TypeError: `layers` is a string instead of a list.
        ValueError: there is no such layer, a layer returns no maps, there is more than one image,
            or no layers are given for a network without stages.
    """
    if isinstance(image, np.ndarray | Tensor) and image.ndim == 4 and len(image) != 1:
        raise ValueError(f"expected one image, got {len(image)}")
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list such as [{layers!r}], got {layers!r}")
    model = unwrapped(model)
    selection = select_images(image, 1, preprocessing=preprocessing, model=model)
    paths = [layer_path(model, name) for name in layers or stage_layers(model)]
    if not paths:
        raise ValueError(f"{type(model).__name__} has no stages: specify the layers")
    maps = layer_maps(model, selection.inputs, paths)
    figure = new_figure((columns + 1) * CELL, len(maps) * (CELL + 0.25))
    cells = figure.subplots(len(maps), columns + 1, squeeze=False)
    for axes in cells.flatten():
        axes.set_axis_off()
    show_image(cells[0, 0], selection.pixels()[0])
    cells[0, 0].set_axis_on()
    cells[0, 0].set_title("input", fontsize=7, pad=3)
    for row, (path, output) in zip(cells, maps.items(), strict=True):
        for axes, channel in zip(row[1:], output, strict=False):
            scale = output[:columns] if channel.numel() == 1 else channel
            limits = {"vmin": float(scale.min()), "vmax": float(scale.max())}
            axes.imshow(channel.numpy(), cmap="viridis", interpolation="nearest", **limits)
        title = f"{layer_name(model, path)}: {shape_text(output.shape, ' x ')}"
        row[1].set_title(title, fontsize=7, pad=3, loc="left")
    return figure


def filters(
    model: nn.Module, layer: str | None = None, *, rows: int = 8, columns: int = 8
) -> Figure:
    """Show a convolution's filters, each scaled by its largest absolute weight; zero is gray.

    Filters over three channels are shown in color. For other filters, only the first channel is
    shown.

    Args:
        model: any network.
        layer: module path of a convolution, or a stage that is a convolution; None uses the first
            convolution.
        rows: maximum number of rows.
        columns: number of filters per row.

    Raises:
        ValueError: there is no such layer, or it is not a convolution.
    """
    model = unwrapped(model)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise ValueError(f"{type(model).__name__} has no convolutional layers")
    path = convolutions[0] if layer is None else layer_path(model, layer)
    module = model.get_submodule(path)
    if not isinstance(module, nn.Conv2d):
        raise ValueError(f"{layer!r} is {type(module).__name__}, not a convolution")
    weight = module.weight.detach().cpu().float()
    visible = weight if weight.shape[1] == 3 else weight[:, :1]
    count = min(len(visible), rows * columns)
    largest = visible.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pictures = ((visible / largest + 1) / 2).permute(0, 2, 3, 1)
    columns = min(columns, count)
    height = -(-count // columns)
    figure = new_figure(columns * 0.6, height * 0.6 + 0.35)
    for axes in figure.subplots(height, columns, squeeze=False).flatten():
        axes.set_axis_off()
    for axes, picture in zip(figure.axes, pictures[:count].numpy(), strict=False):
        values = picture if picture.shape[-1] == 3 else picture[..., 0]
        axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    shape = shape_text(weight.shape[1:], " x ")
    figure.suptitle(f"{path}: {count} of {len(weight)} filters, {shape}", fontsize=8)
    return figure


def layer_maps(model: nn.Module, image: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Return each layer's maps (C, h, w) for one image, keyed by module path."""
    layers = [model.get_submodule(path) for path in paths]
    activations = LayerActivation(model, layers)
    with evaluating(model):
        outputs = activations.attribute(image.to(next(model.parameters()).device))
    for path, output in zip(paths, outputs, strict=True):
        if not isinstance(output, Tensor) or output.dim() != 4:
            raise ValueError(f"layer {path!r} returns no maps of shape (N, C, H, W)")
    return {path: output[0].float().cpu() for path, output in zip(paths, outputs, strict=True)}
