"""ResNeXt against its paper (Xie et al., 2016)."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import Bottleneck
from cnnarch.models.resnext import ResNeXt
from cnnarch.models.se_resnet import SEResNet
from cnnarch.testing import assert_parameters

SMALL_FORMS = {
    "32x4d": partial(ResNeXt, (1, 2, 1, 1), 4, 2, (8, 16, 24, 32)),
    "small_images": partial(ResNeXt, (1, 1, 1, 1), 4, 2, (8, 8, 16, 16), small_images=True),
}


def grouped(name: str) -> list[list[nn.Conv2d]]:
    """The 3x3 convolutions of each stage."""
    with torch.device("meta"):
        stages = cnnarch.get_model(name).stages
    return [[b.branch.conv.conv for b in stage if isinstance(b, Bottleneck)] for stage in stages]


@pytest.mark.parametrize(
    ("name", "cardinality", "widths"),
    [
        ("resnext50_32x4d", 32, (128, 256, 512, 1024)),
        ("resnext101_32x4d", 32, (128, 256, 512, 1024)),
        ("resnext101_32x8d", 32, (256, 512, 1024, 2048)),
        ("resnext101_64x4d", 64, (256, 512, 1024, 2048)),
    ],
)
def test_groups_and_widths_are_those_of_the_template(
    name: str, cardinality: int, widths: tuple[int, ...]
) -> None:
    """Table 1 prints 128, 256, 512 and 1024 with C = 32 for ResNeXt-50 (32x4d)."""
    for stage, width in zip(grouped(name), widths, strict=True):
        assert {(c.groups, c.in_channels, c.out_channels) for c in stage} == {
            (cardinality, width, width)
        }


def test_depths_are_those_of_resnet() -> None:
    assert [len(stage) for stage in grouped("resnext50_32x4d")] == [3, 4, 6, 3]
    assert [len(stage) for stage in grouped("resnext101_64x4d")] == [3, 4, 23, 3]


def test_the_grouped_convolution_takes_the_stride() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext50_32x4d()
    for stage in list(model.stages)[1:]:
        first = stage[0].branch
        assert [layer.conv.stride for layer in first] == [(1, 1), (2, 2), (1, 1)]


def test_a_block_costs_what_section_3_says() -> None:
    """C (256 d + 3 3 d d + d 256) weights, about 70 k at C = 32 and d = 4, as ResNet's block."""
    with torch.device("meta"):
        block = cnnarch.resnext50_32x4d().stages[0][2].branch
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == 32 * (256 * 4 + 3 * 3 * 4 * 4 + 4 * 256) == 70_144


def test_one_group_as_wide_as_resnets_is_resnet() -> None:
    with torch.device("meta"):
        model = ResNeXt((3, 4, 6, 3), 1, 64)
        assert_parameters(model, 25_557_032)  # ResNet-50's


@pytest.mark.parametrize("network", [ResNeXt, partial(SEResNet, Bottleneck)])
def test_a_group_of_half_a_channel_is_refused(network: Callable[..., ImageClassifier]) -> None:
    """3 channels in blocks of width 64 are 4.5 in those of width 96."""
    with pytest.raises(ValueError, match=r"width 96, must be whole, got 4\.5"):
        network((1, 1, 1, 1), 32, 3, (64, 96, 128, 256))


def test_small_images_leave_a_map_of_4x4() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext50_32x4d(small_images=True).eval()
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert features.shape == (1, 2048, 4, 4)
