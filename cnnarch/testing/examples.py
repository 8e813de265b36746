"""Images to test with, and untrained networks whose outputs depend on them."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.contract.classifier import ImageClassifier

__all__ = ["calibrate", "example_images"]


def example_images(model: ImageClassifier, batch: int = 2, side: int | None = None) -> Tensor:
    """Seeded noise images that the network accepts, small ones unless `side` says otherwise."""
    if side is None:
        side = model.min_input_size if model.fixed_input_size else max(model.min_input_size, 64)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, model.in_channels, side, side, generator=generator)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set BatchNorm statistics to those of `images`, and leave `model` in eval mode.

    An untrained network's statistics are not those of its activations: in eval mode its logits
    can be all but 0, and comparing them proves nothing.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()
        with torch.no_grad():
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()
