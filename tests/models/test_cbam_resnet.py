"""CBAM-ResNet against its paper (Woo et al., 2018) and pytorchcv."""

from functools import partial

import pytest
import torch

import cnnarch
from cnnarch.blocks import CBAM, Bottleneck, Residual
from cnnarch.models.cbam_resnet import CBAMResNet

DEPTHS = (1, 2, 1, 1)
SMALL_FORMS = {
    "residual": partial(CBAMResNet, Residual, DEPTHS, 4, (8, 12, 16, 24)),
    "residual-small_images": partial(
        CBAMResNet, Residual, DEPTHS, 4, (8, 12, 16, 24), small_images=True
    ),
    "bottleneck": partial(CBAMResNet, Bottleneck, DEPTHS, 4, (4, 6, 8, 12)),
    "bottleneck-stride_in_1x1": partial(
        CBAMResNet, Bottleneck, DEPTHS, 4, (4, 6, 8, 12), stride_in_1x1=True
    ),
}


@pytest.mark.parametrize(
    ("name", "depths", "expansion"),
    [
        ("cbam_resnet18", [2, 2, 2, 2], 1),
        ("cbam_resnet34", [3, 4, 6, 3], 1),
        ("cbam_resnet50", [3, 4, 6, 3], 4),
        ("cbam_resnet101", [3, 4, 23, 3], 4),
    ],
)
def test_every_branch_ends_with_attention(name: str, depths: list[int], expansion: int) -> None:
    """The reduction ratio is 16."""
    with torch.device("meta"):
        model = cnnarch.get_model(name)
    for stage, depth, width in zip(model.stages, depths, (64, 128, 256, 512), strict=True):
        blocks = [m for m in stage if isinstance(m, Residual | Bottleneck)]
        assert len(blocks) == depth
        for block in blocks:
            last = [*block.branch][-1]
            assert isinstance(last, CBAM)
            assert last.channel.reduce.in_features == expansion * width
            assert last.channel.reduce.out_features == expansion * width // 16


def test_the_stride_can_be_moved_to_the_first_1x1() -> None:
    for moved in (False, True):
        with torch.device("meta"):
            model = cnnarch.cbam_resnet50(stride_in_1x1=moved)
        branch = model.stages[1][0].branch
        strides = [layer.conv.stride for layer in (branch.reduce, branch.conv)]
        assert strides == ([(2, 2), (1, 1)] if moved else [(1, 1), (2, 2)])


def test_impossible_options_are_rejected() -> None:
    with pytest.raises(ValueError, match="requires Bottleneck blocks, got Residual"):
        cnnarch.cbam_resnet18(stride_in_1x1=True)
    with pytest.raises(ValueError, match="reduction must be an integer of at least 1, got 0"):
        CBAMResNet(Residual, DEPTHS, 0)
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        CBAMResNet(Residual, DEPTHS, 16, (8, 12, 16, 24))
