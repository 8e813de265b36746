"""Wide ResNet against its paper (Zagoruyko and Komodakis, 2016)."""

from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import Bottleneck
from cnnarch.models.wide_resnet import WideResNet
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "wide_resnet": partial(WideResNet, (1, 2, 1, 1), 2, (4, 6, 8, 12)),
    "small_images": partial(WideResNet, (1, 1, 1, 1), 2, (4, 4, 6, 6), small_images=True),
}


@pytest.mark.parametrize(("depth", "depths"), [(50, [3, 4, 6, 3]), (101, [3, 4, 23, 3])])
def test_only_the_inner_width_is_doubled(depth: int, depths: list[int]) -> None:
    with torch.device("meta"):
        stages = cnnarch.get_model(f"wide_resnet{depth}_2").stages
    blocks = [[block for block in stage if isinstance(block, Bottleneck)] for stage in stages]
    assert [len(stage) for stage in blocks] == depths
    for stage, width in zip(blocks, (64, 128, 256, 512), strict=True):
        for block in stage:
            widths = [layer.conv.out_channels for layer in block.branch]
            assert widths == [2 * width, 2 * width, 4 * width]


def test_the_3x3_has_the_stride() -> None:
    with torch.device("meta"):
        stages = cnnarch.wide_resnet50_2().stages
    for stage in list(stages)[1:]:
        assert [layer.conv.stride for layer in stage[0].branch] == [(1, 1), (2, 2), (1, 1)]


def test_the_widening_factor_1_gives_resnet() -> None:
    with torch.device("meta"):
        assert_parameters(WideResNet((3, 4, 6, 3), 1), 25_557_032)  # ResNet-50's


def test_an_invalid_widening_factor_is_rejected() -> None:
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        WideResNet((1, 1, 1, 1), 0)


def test_small_images_give_a_4x4_map() -> None:
    with torch.device("meta"):
        model = cnnarch.wide_resnet50_2(small_images=True).eval()
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert features.shape == (1, 2048, 4, 4)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
