"""Where a network looks: Grad-CAM and integrated gradients, both by Captum."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnarch.contract.modes import evaluating
from cnnarch.viz._figure import (
    LabelledImages,
    Normalisation,
    Shown,
    in_any_script,
    new_figure,
    short,
    show_image,
    shown,
)
from cnnarch.viz.features import is_stage, layer_of, outputs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["gradcam", "integrated_gradients"]

CELL = 1.4  # inches an image
LONGEST = 18  # letters of a name above it


def gradcam(
    model: nn.Module,
    images: Tensor | LabelledImages,
    targets: Sequence[int] | None = None,
    *,
    layer: str | None = None,
    classes: Sequence[str] | None = None,
    preprocessing: Normalisation | None = None,
    columns: int = 6,
) -> "Figure":
    """Grad-CAM (Selvaraju et al., 2017): the places whose features speak for a class.

    Args:
        model: a classifier; its mode and gradients stay as they are.
        images: a set such as `data.test`, or a tensor (N, C, H, W) as the network reads it.
        targets: the class to ask for, an image each; None takes the network's answers.
        layer: whose maps to weigh; None takes `model.cam_layer`, or where its map is a single
            pixel the last stage before it whose map is not.
        classes: names of the classes; None takes the network's own.
        preprocessing: how a tensor's images were normalised; None takes the network's own.
        columns: images.

    Raises:
        ValueError: there is no such layer, or its maps are single pixels, which show no place,
            or there are not as many targets as images.
    """
    name = _place(model, shown(images, 1).inputs, layer)
    module = layer_of(model, name)

    def attribute(inputs: Tensor, chosen: Tensor) -> Tensor:
        from captum.attr import LayerAttribution, LayerGradCam

        maps = LayerGradCam(model, module).attribute(inputs, chosen, relu_attributions=True)
        size = tuple(inputs.shape[-2:])
        result: Tensor = LayerAttribution.interpolate(maps, size, "bilinear")[:, 0]
        return result

    return _pictures(
        model, images, targets, attribute, f"Grad-CAM at {name}", classes, preprocessing, columns
    )


def integrated_gradients(
    model: nn.Module,
    images: Tensor | LabelledImages,
    targets: Sequence[int] | None = None,
    *,
    steps: int = 32,
    classes: Sequence[str] | None = None,
    preprocessing: Normalisation | None = None,
    columns: int = 6,
) -> "Figure":
    """Integrated gradients (Sundararajan et al., 2017): the pixels that speak for a class.

    The path starts at the mean colour of the training images, where inputs are 0.

    Args:
        model: a classifier; its mode and gradients stay as they are.
        images: a set such as `data.test`, or a tensor (N, C, H, W) as the network reads it.
        targets: the class to ask for, an image each; None takes the network's answers.
        steps: along the path.
        classes: names of the classes; None takes the network's own.
        preprocessing: how a tensor's images were normalised; None takes the network's own.
        columns: images.

    Raises:
        ValueError: there are not as many targets as images.
    """

    def attribute(inputs: Tensor, chosen: Tensor) -> Tensor:
        from captum.attr import IntegratedGradients

        shares = IntegratedGradients(model).attribute(
            inputs, target=chosen, n_steps=steps, internal_batch_size=len(inputs)
        )
        result: Tensor = shares.abs().sum(1)
        return result

    title = "Integrated gradients"
    return _pictures(model, images, targets, attribute, title, classes, preprocessing, columns)


def _place(model: nn.Module, image: Tensor, layer: str | None) -> str:
    """The layer to look at: the one that was named, or the network's last that shows places."""
    own = getattr(model, "cam_layer", None)
    if layer is None and own is None:
        raise ValueError(f"{type(model).__name__} has no cam_layer: name a layer")
    stages = [n for n, _ in model.named_modules() if n == "stem" or is_stage(n)]
    earlier = stages[: stages.index(own)] if own in stages else []
    for name in [layer] if layer is not None else [own, *reversed(earlier)]:
        if outputs_of(model, image, [name])[name][0].numel() > 1:
            return str(name)
    raise ValueError(f"the maps of {layer or own!r} are single pixels, which show no place")


def _pictures(
    model: nn.Module,
    images: Tensor | LabelledImages,
    targets: Sequence[int] | None,
    attribute: Any,
    title: str,
    classes: Sequence[str] | None,
    preprocessing: Normalisation | None,
    columns: int,
) -> "Figure":
    classes = classes or getattr(model, "categories", None)
    preprocessing = preprocessing or getattr(model, "preprocessing", None)
    some = shown(images, columns, classes=classes, preprocessing=preprocessing)
    inputs = some.inputs.to(next(model.parameters()).device)
    if targets is not None and len(targets) < len(inputs):
        raise ValueError(f"{len(inputs)} images need as many targets, got {len(targets)}")
    with evaluating(model):
        answers = model(inputs).argmax(1)
        chosen = answers if targets is None else torch.tensor(targets[: len(inputs)]).to(answers)
        with torch.enable_grad():
            try:
                heat = attribute(inputs, chosen).detach().cpu()
            except ImportError as error:
                raise ImportError(
                    "attribution needs more packages: pip install 'cnnarch[train]'"
                ) from error
    return _draw(some, heat, chosen.tolist(), title)


def _draw(some: Shown, heat: Tensor, chosen: list[int], title: str) -> "Figure":
    """Images above, the same under their heat below."""
    count = len(some.pixels)
    figure = new_figure(max(2.6, count * CELL), 2 * CELL + 0.6)
    cells = figure.subplots(2, count, squeeze=False)
    low = heat.amin((1, 2), keepdim=True)
    scaled = (heat - low) / (heat.amax((1, 2), keepdim=True) - low).clamp(min=1e-12)
    for i, pixels in enumerate(some.pixels):
        show_image(cells[0, i], pixels)
        cells[0, i].set_title(short(some.name(chosen[i]), LONGEST), fontsize=8, pad=3)
        show_image(cells[1, i], pixels if pixels.ndim == 2 else pixels.mean(2))
        cells[1, i].imshow(scaled[i].numpy(), cmap="inferno", alpha=0.65, vmin=0, vmax=1)
    figure.suptitle(title, fontsize=9)
    return in_any_script(figure)
