"""Compare a network with one from another library whose tensors are in the same order."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.testing import assert_close, calibrate


def randomize_norms(model: nn.Module, images: Tensor) -> None:
    """Randomize the BatchNorms, calibrate them with `images`, and switch to eval mode."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    calibrate(model, images)


def copy_in_order(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy our tensors to another library's network, whose shapes must be in the same order."""
    source, target = ours.state_dict(), theirs.state_dict()
    assert [v.shape for v in source.values()] == [v.shape for v in target.values()]
    theirs.load_state_dict(dict(zip(target, source.values(), strict=True)))


def assert_same_outputs(
    ours: nn.Module, theirs: nn.Module, *sizes: tuple[int, int], tolerance: float = 1e-8
) -> None:
    """Check that the logits are equal for images of these sizes (H, W).

    The networks are calibrated with images of the first size.

    The comparison uses double precision because untrained deep networks amplify rounding errors.
    """
    generator = torch.Generator().manual_seed(0)
    channels = next(m for m in ours.modules() if isinstance(m, nn.Conv2d)).in_channels
    batches = [torch.randn(2, channels, *size, generator=generator).double() for size in sizes]
    ours.double(), theirs.double()
    randomize_norms(ours, batches[0])
    copy_in_order(ours, theirs)
    theirs.eval()
    with torch.no_grad():
        for images in batches:
            assert_close(ours(images), theirs(images), tolerance)
