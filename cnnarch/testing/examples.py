"""Example images, and calibration to make an untrained network's outputs depend on them."""

import torch
from torch import Tensor, nn

from cnnarch.contract.classifier import ImageClassifier

__all__ = ["calibrate", "example_images"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def example_images(model: ImageClassifier, batch: int = 2, side: int = 64) -> Tensor:
    """Return seeded noise of `side` x `side` pixels or the nearest accepted size, on its device."""
    side = model.min_input_size if model.fixed_input_size else max(model.min_input_size, side)
    generator = torch.Generator().manual_seed(0)
    shape = (batch, model.in_channels, side, side)
    images = torch.randn(shape, generator=generator, device="cpu")  # the same on every device
    return images.to(next(model.parameters()).device)


def calibrate(model: nn.Module, images: Tensor) -> None:
    """Set the BatchNorm statistics to those of `images`, and set `model` to eval mode.

    The initial statistics do not match the activations of an untrained network. In eval mode,
    the logits can then be close to 0, so comparing them proves nothing.
    """
    norms = {m: m.momentum for m in model.modules() if isinstance(m, NORMS)}
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()
        with torch.no_grad():
            model(images)
    for norm, momentum in norms.items():
        norm.momentum = momentum
    model.eval()
