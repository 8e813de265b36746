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
    """Return the grouped 3x3 convolutions of each stage."""
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
    """Table 1 lists widths of 128, 256, 512 and 1024 with C = 32 for ResNeXt-50 (32x4d)."""
    for stage, width in zip(grouped(name), widths, strict=True):
        assert {(c.groups, c.in_channels, c.out_channels) for c in stage} == {
            (cardinality, width, width)
        }


def test_depths_are_those_of_resnet() -> None:
    assert [len(stage) for stage in grouped("resnext50_32x4d")] == [3, 4, 6, 3]
    assert [len(stage) for stage in grouped("resnext101_64x4d")] == [3, 4, 23, 3]


def test_the_grouped_convolution_has_the_stride() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext50_32x4d()
    for stage in list(model.stages)[1:]:
        first = stage[0].branch
        assert [layer.conv.stride for layer in first] == [(1, 1), (2, 2), (1, 1)]


def test_a_block_has_the_weights_of_section_3() -> None:
    """C * (256 d + 3 * 3 * d * d + 256 d) weights, about 70k for C = 32, d = 4, as in ResNet."""
    with torch.device("meta"):
        block = cnnarch.resnext50_32x4d().stages[0][2].branch
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == 32 * (256 * 4 + 3 * 3 * 4 * 4 + 4 * 256) == 70_144


def test_one_group_with_the_width_of_resnet_gives_resnet() -> None:
    with torch.device("meta"):
        model = ResNeXt((3, 4, 6, 3), 1, 64)
        assert_parameters(model, 25_557_032)  # ResNet-50's


@pytest.mark.parametrize("network", [ResNeXt, partial(SEResNet, Bottleneck)])
def test_a_fractional_group_width_is_rejected(network: Callable[..., ImageClassifier]) -> None:
    """3 channels at width 64 correspond to 4.5 at width 96."""
    with pytest.raises(ValueError, match=r"width 96, must be an integer, got 4\.5"):
        network((1, 1, 1, 1), 32, 3, (64, 96, 128, 256))


def test_small_images_give_a_4x4_map() -> None:
    with torch.device("meta"):
        model = cnnarch.resnext50_32x4d(small_images=True).eval()
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert features.shape == (1, 2048, 4, 4)
