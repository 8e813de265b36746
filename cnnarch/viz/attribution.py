"""Grad-CAM and integrated gradients, both computed by Captum."""

from collections.abc import Callable, Sequence

import torch
from captum.attr import IntegratedGradients, LayerGradCam
from matplotlib.figure import Figure
from torch import Tensor, nn

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.layers import layer_name, layer_path, stage_layers
from cnnarch.contract.modes import evaluating
from cnnarch.preprocessing import Preprocessing
from cnnarch.viz._figure import (
    Images,
    Selection,
    add_fallback_fonts,
    new_figure,
    select_images,
    show_image,
)
from cnnarch.viz.features import layer_maps

CELL = 1.4  # inches per image
COLUMNS = 6  # images in a figure
MIN_WIDTH = 3.6  # inches; fewer images are shown larger
NAME_LENGTH = 18  # maximum length of a class name


def gradcam(
    model: nn.Module,
    images: Images,
    targets: Sequence[int] | None = None,
    *,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    columns: int | None = None,
) -> Figure:
    """Show the regions that support a class, using Grad-CAM (Selvaraju et al., 2017).

    Args:
        model: a classifier; its mode and gradients are not changed.
        images: a photograph or a list of photographs (paths, file contents as bytes, open files,
            Pillow images, or uint8 arrays (H, W, C) or tensors (C, H, W)), a data set such as
            `data.test`, or network inputs as floats (N, C, H, W).
        targets: class index for each image; None uses the predicted classes.
        layer: a stage such as "conv4_x" or a module path; None uses `model.cam_layer` or, if its
            maps are single pixels, the last stage before it with larger maps.
        classes: class names; None uses the network's own.
        preprocessing: converts photographs to network inputs, and is the normalization of the
            images in a tensor; None uses the network's own.
        columns: number of images to show; None shows all photographs in a list, and otherwise six.

    Raises:
        ValueError: there is no such layer, its maps are single pixels, or there are fewer targets
            than images.
    """
    model = unwrapped(model)
    selection = select_images(
        images, columns or _columns(images), None, classes, preprocessing, model
    )
    path = _spatial_layer(model, selection.inputs[:1], layer)

    def attribute(inputs: Tensor, chosen: Tensor) -> Tensor:
        cam = LayerGradCam(model, model.get_submodule(path))
        maps: Tensor = cam.attribute(inputs, chosen, relu_attributions=True)
        return nn.functional.interpolate(maps, inputs.shape[-2:], mode="bilinear")[:, 0]

    title = f"Grad-CAM at {layer_name(model, path)}"
    return _draw(model, selection, targets, attribute, title)


def integrated_gradients(
    model: nn.Module,
    images: Images,
    targets: Sequence[int] | None = None,
    *,
    steps: int = 32,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | None = None,
    columns: int | None = None,
) -> Figure:
    """Show the pixels that support a class, using integrated gradients (Sundararajan et al., 2017).

    The baseline is an all-zero input, which is the mean color of the training images.

    Args:
        model: a classifier; its mode and gradients are not changed.
        images: a photograph or a list of photographs (paths, file contents as bytes, open files,
            Pillow images, or uint8 arrays (H, W, C) or tensors (C, H, W)), a data set such as
            `data.test`, or network inputs as floats (N, C, H, W).
        targets: class index for each image; None uses the predicted classes.
        steps: number of steps from the baseline to the input.
        classes: class names; None uses the network's own.
        preprocessing: converts photographs to network inputs, and is the normalization of the
            images in a tensor; None uses the network's own.
        columns: number of images to show; None shows all photographs in a list, and otherwise six.

    Raises:
        ValueError: there are fewer targets than images.
    """
    model = unwrapped(model)

    def attribute(inputs: Tensor, chosen: Tensor) -> Tensor:
        gradients: Tensor = IntegratedGradients(model).attribute(
            inputs, target=chosen, n_steps=steps, internal_batch_size=len(inputs)
        )
        return gradients.abs().sum(1)

    selection = select_images(
        images, columns or _columns(images), None, classes, preprocessing, model
    )
    return _draw(model, selection, targets, attribute, "Integrated gradients")


def _columns(images: Images) -> int:
    return max(COLUMNS, len(images)) if isinstance(images, list | tuple) else COLUMNS


def _spatial_layer(model: nn.Module, image: Tensor, layer: str | None) -> str:
    """Return the path of the given layer, or of the last layer with maps larger than one pixel."""
    default = getattr(model, "cam_layer", None)
    if layer is None and default is None:
        raise ValueError(f"{type(model).__name__} has no cam_layer: specify a layer")
    paths = [layer_path(model, layer or str(default))]
    stages = list(stage_layers(model).values())
    if layer is None and default in stages:
        paths += reversed(stages[: stages.index(default)])
    for path, maps in layer_maps(model, image, paths).items():
        if maps[0].numel() > 1:
            return path
    name = layer_name(model, paths[0])
    raise ValueError(f"the maps of {name!r} are single pixels, so there are no regions to show")


def _draw(
    model: nn.Module,
    selection: Selection,
    targets: Sequence[int] | None,
    attribute: Callable[[Tensor, Tensor], Tensor],
    title: str,
) -> Figure:
    """Draw images in the first row, and their attributions for the targets in the second row."""
    inputs = selection.inputs.to(next(model.parameters()).device)
    count = len(inputs)
    if targets is not None and len(targets) < count:
        raise ValueError(f"expected {count} targets, got {len(targets)}")
    with evaluating(model):
        logits = model(inputs)
        chosen = logits.argmax(1)
        if targets is not None:
            wrong = [target for target in targets[:count] if not 0 <= target < logits.shape[1]]
            if wrong:
                last = logits.shape[1] - 1
                raise ValueError(f"targets must be class indices from 0 to {last}, got {wrong[0]}")
            chosen = torch.tensor(targets[:count]).to(chosen)
        with torch.enable_grad():
            heat = attribute(inputs, chosen).detach().cpu()
    low = heat.amin((1, 2), keepdim=True)
    scaled = (heat - low) / (heat.amax((1, 2), keepdim=True) - low).clamp(min=1e-12)
    cell = max(CELL, MIN_WIDTH / count)
    figure = new_figure(count * cell, 2 * cell + 0.6)
    cells = figure.subplots(2, count, squeeze=False)
    names = selection.names(chosen.tolist(), NAME_LENGTH)
    for i, (pixels, name) in enumerate(zip(selection.pixels(), names, strict=True)):
        show_image(cells[0, i], pixels)
        cells[0, i].set_title(name, fontsize=8, pad=3)
        show_image(cells[1, i], pixels if pixels.ndim == 2 else pixels.mean(2))
        cells[1, i].imshow(scaled[i].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
    figure.suptitle(title, fontsize=9)
    return add_fallback_fonts(figure)
