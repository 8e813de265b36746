"""Compare a network with another library's that has the same tensors in the same order."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.testing import assert_close, calibrate


def with_a_spread(model: nn.Module, images: Tensor) -> None:
    """Random BatchNorm scales and shifts, and statistics of `images`; the model goes to eval."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    calibrate(model, images)


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    """Give another library's network our tensors; fail unless the shapes come in the same order."""
    source, target = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in source.values()] == [v.shape for v in target.values()]
    theirs.load_state_dict(dict(zip(target, source.values(), strict=True)))


def assert_same_outputs(
    ours: nn.Module, theirs: nn.Module, *sizes: tuple[int, int], tolerance: float = 1e-8
) -> None:
    """Fail unless both give the same logits at these image sizes (H, W), the first calibrating.

    In double precision: untrained deep networks magnify rounding, which is not what is compared.
    """
    generator = torch.Generator().manual_seed(0)
    channels = next(m for m in ours.modules() if isinstance(m, nn.Conv2d)).in_channels
    batches = [torch.randn(2, channels, *size, generator=generator).double() for size in sizes]
    ours.double(), theirs.double()
    with_a_spread(ours, batches[0])
    copy_in_order(ours, theirs)
    theirs.eval()
    with torch.no_grad():
        for images in batches:
            assert_close(ours(images), theirs(images), tolerance)
