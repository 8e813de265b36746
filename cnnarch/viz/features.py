"""What layers do: the maps that they give, and the filters that they have learned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cnnarch.contract.modes import evaluating
from cnnarch.facts.suggestions import suggest
from cnnarch.viz._figure import (
    LabelledImages,
    Normalisation,
    new_figure,
    show_image,
    shown,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["feature_maps", "filters", "is_stage", "layer_of", "outputs_of"]

CELL = 0.95  # inches a map


def feature_maps(
    model: nn.Module,
    image: Tensor | LabelledImages,
    layers: Sequence[str] | None = None,
    *,
    preprocessing: Normalisation | None = None,
    columns: int = 8,
) -> "Figure":
    """An image and the first maps of several layers, a row a layer, each map by its own range.

    Maps of one pixel have no range of their own; they share their layer's.

    Args:
        model: any network; its mode is put back afterwards.
        image: (C, H, W) or (1, C, H, W) as the network reads it, or a set, whose first is taken.
        layers: names as in `model.named_modules()`; None takes the stem and all stages.
        preprocessing: how the image was normalised; None takes the network's own.
        columns: maps a layer.

    Raises:
        ValueError: there is no such layer, or it gives no maps, or more than one image came.
    """
    if isinstance(image, Tensor):
        image = image[None] if image.dim() == 3 else image
        if len(image) != 1:
            raise ValueError(f"expected one image, got {len(image)}")
    preprocessing = preprocessing or getattr(model, "preprocessing", None)
    some = shown(image, 1, preprocessing=preprocessing)
    if layers is None:
        layers = [name for name, _ in model.named_modules() if name == "stem" or is_stage(name)]
    maps = outputs_of(model, some.inputs, layers)
    figure = new_figure((columns + 1) * CELL, len(layers) * (CELL + 0.25))
    cells = figure.subplots(len(layers), columns + 1, squeeze=False)
    for axes in cells.flatten():
        axes.set_axis_off()
    show_image(cells[0, 0], some.pixels[0])
    cells[0, 0].set_axis_on()
    cells[0, 0].set_title("input", fontsize=7, pad=3)
    for row, (name, output) in zip(cells, maps.items(), strict=True):
        shared = output[:columns] if output[0].numel() == 1 else None  # one value has no range
        for axes, channel in zip(row[1:], output, strict=False):
            scale = channel if shared is None else shared
            limits = {"vmin": float(scale.min()), "vmax": float(scale.max())}
            axes.imshow(channel.numpy(), cmap="viridis", interpolation="nearest", **limits)
        channels, height, width = output.shape
        row[1].set_title(f"{name}: {channels} x {height} x {width}", fontsize=7, pad=3, loc="left")
    return figure


def filters(
    model: nn.Module, layer: str | None = None, *, rows: int = 8, columns: int = 8
) -> "Figure":
    """The filters of a convolution, each by its own range; zero is gray.

    Of filters over three channels all are shown, in colour; of others the first.

    Args:
        model: any network.
        layer: name of a convolution; None takes the first.
        rows: of filters; fewer where they do not fill them.
        columns: of filters.

    Raises:
        ValueError: there is no such layer, or it is no convolution.
    """
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise ValueError(f"{type(model).__name__} has no convolution")
    name = convolutions[0] if layer is None else layer
    module = layer_of(model, name)
    if not isinstance(module, nn.Conv2d):
        raise ValueError(f"{name!r} is {type(module).__name__}, no convolution")
    weight = module.weight.detach().cpu().float()
    colours = weight if weight.shape[1] == 3 else weight[:, :1]
    count = min(len(colours), rows * columns)
    largest = colours.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    pictures = ((colours / largest + 1) / 2).permute(0, 2, 3, 1)
    columns = min(columns, count)
    height = -(-count // columns)
    figure = new_figure(columns * 0.6, height * 0.6 + 0.35)
    for axes in figure.subplots(height, columns, squeeze=False).flatten():
        axes.set_axis_off()
    for axes, picture in zip(figure.axes, pictures[:count].numpy(), strict=False):
        values = picture if picture.shape[-1] == 3 else picture[..., 0]
        axes.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    out, into, tall, wide = weight.shape
    figure.suptitle(f"{name}: {count} of {out} filters, {into} x {tall} x {wide}", fontsize=8)
    return figure


def is_stage(name: str) -> bool:
    """Whether this is the name of a whole stage of a network of this package."""
    first, _, rest = name.partition(".")
    return first == "stages" and rest.isdigit()


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """A layer by its name; ValueError with the nearest names if there is none."""
    known = dict(model.named_modules())
    if not name or name not in known:
        parts = [part for part, _ in model.named_children()]
        raise ValueError(f"there is no layer {name!r}; {suggest(name, list(known), parts)}")
    return known[name]


def outputs_of(model: nn.Module, image: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """Maps (C, h, w) that layers give for one image."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4:
                # A copy: what comes next may work in place.
                found[name] = output[0].detach().to("cpu", torch.float32, copy=True)

        return hook

    handles = [layer_of(model, name).register_forward_hook(keep(name)) for name in names]  # type: ignore[arg-type]
    try:
        with evaluating(model):
            model(image.to(next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    for name in names:
        if name not in found:
            raise ValueError(f"layer {name!r} gives no maps of shape (N, C, H, W)")
    return {name: found[name] for name in names}
