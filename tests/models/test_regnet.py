"""RegNet against its paper (Radosavovic et al., 2020), torchvision, timm and pytorchcv."""

from functools import partial

import pytest
import torch

import cnnarch
from cnnarch.blocks import SE, XBlock
from cnnarch.models.regnet import RegNet, RegNetRow, nearest_multiple, torchvision_multiple

SMALL = RegNetRow(7, 8, 8, 2, 16)  # widths 8, 16, 32, 64; the first stage is narrower than a group
SMALL_FORMS = {
    "x": partial(RegNet, SMALL),
    "y": partial(RegNet, SMALL, 0.25),
    "small_images": partial(RegNet, SMALL, small_images=True),
}

FIGS_15_AND_16 = {  # depths, widths and group width
    "x_200mf": ([1, 1, 4, 7], [24, 56, 152, 368], 8),
    "x_400mf": ([1, 2, 7, 12], [32, 64, 160, 384], 16),
    "x_600mf": ([1, 3, 5, 7], [48, 96, 240, 528], 24),
    "x_800mf": ([1, 3, 7, 5], [64, 128, 288, 672], 16),
    "x_1_6gf": ([2, 4, 10, 2], [72, 168, 408, 912], 24),
    "x_3_2gf": ([2, 6, 15, 2], [96, 192, 432, 1008], 48),
    "x_4gf": ([2, 5, 14, 2], [80, 240, 560, 1360], 40),
    "x_6_4gf": ([2, 4, 10, 1], [168, 392, 784, 1624], 56),
    "x_8gf": ([2, 5, 15, 1], [80, 240, 720, 1920], 120),
    "x_12gf": ([2, 5, 11, 1], [224, 448, 896, 2240], 112),
    "x_16gf": ([2, 6, 13, 1], [256, 512, 896, 2048], 128),
    "x_32gf": ([2, 7, 13, 1], [336, 672, 1344, 2520], 168),
    "y_200mf": ([1, 1, 4, 7], [24, 56, 152, 368], 8),
    "y_400mf": ([1, 3, 6, 6], [48, 104, 208, 440], 8),
    "y_600mf": ([1, 3, 7, 4], [48, 112, 256, 608], 16),
    "y_800mf": ([1, 3, 8, 2], [64, 128, 320, 768], 16),
    "y_1_6gf": ([2, 6, 17, 2], [48, 120, 336, 888], 24),
    "y_3_2gf": ([2, 5, 13, 1], [72, 216, 576, 1512], 24),
    "y_4gf": ([2, 6, 12, 2], [128, 192, 512, 1088], 64),
    "y_6_4gf": ([2, 7, 14, 2], [144, 288, 576, 1296], 72),
    "y_8gf": ([2, 4, 10, 1], [168, 448, 896, 2016], 56),
    "y_12gf": ([2, 5, 11, 1], [224, 448, 896, 2240], 112),
    "y_16gf": ([2, 4, 11, 1], [224, 448, 1232, 3024], 112),
    "y_32gf": ([2, 5, 12, 1], [232, 696, 1392, 3712], 232),
}


@pytest.mark.parametrize(("size", "printed"), FIGS_15_AND_16.items())
def test_the_equations_give_the_printed_depths_and_widths(
    size: str, printed: tuple[list[int], list[int], int]
) -> None:
    with torch.device("meta"):
        model = cnnarch.get_model(f"regnet_{size}")
    depths, widths, group_width = printed
    assert [len(stage) for stage in model.stages] == depths
    assert [row.channels for row in model.feature_info] == [32, *widths]
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 16, 32]
    for stage, width in zip(model.stages, widths, strict=True):
        for block in stage:
            assert isinstance(block, XBlock)
            conv = block.branch.conv.conv
            assert conv.in_channels // conv.groups == min(group_width, width)
            assert hasattr(block.branch, "attention") == size.startswith("y")


def test_the_squeeze_is_a_quarter_of_the_blocks_input() -> None:
    with torch.device("meta"):
        model = cnnarch.regnet_y_400mf()
    squeezes = [m.reduce.out_channels for m in model.modules() if isinstance(m, SE)]
    inputs = [32, 48, 104, 104, 104, *[208] * 6, *[440] * 5]
    assert squeezes == [width // 4 for width in inputs]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("regnet_x_400mf_tv", [32, 64, 160, 400]),
        ("regnet_y_800mf_tv", [64, 144, 320, 784]),
        ("regnet_y_8gf_tv", [224, 448, 896, 2016]),
    ],
)
def test_torchvisions_networks_have_other_widths(name: str, widths: list[int]) -> None:
    with torch.device("meta"):
        rows = cnnarch.get_model(name).feature_info
    assert [row.channels for row in rows[1:]] == widths


def test_the_two_rules_differ_only_below_90_percent() -> None:
    """192 lies between 168 and 224: 168 is closer, but below 0.9 * 192 = 172.8."""
    assert (nearest_multiple(192, 56), torchvision_multiple(192, 56)) == (168, 224)
    assert (nearest_multiple(384, 16), torchvision_multiple(384, 16)) == (384, 384)


def test_small_images_give_a_4x4_map() -> None:
    with torch.device("meta"):
        model = cnnarch.regnet_y_400mf(small_images=True).eval()
        features = model.forward_features(torch.empty(1, 3, 32, 32))
    assert features.shape == (1, 440, 4, 4)


def test_impossible_rows_are_rejected() -> None:
    with pytest.raises(ValueError, match="w_m must be a number above 1, got 1"):
        RegNet(RegNetRow(4, 8, 8, 1, 8))
    with pytest.raises(ValueError, match="g must be an integer of at least 1, got 0"):
        RegNet(RegNetRow(4, 8, 8, 2, 0))
    for ratio in (0, -1, float("nan"), True):
        with pytest.raises(
            ValueError, match=f"squeeze_ratio must be a number above 0, got {ratio}"
        ):
            RegNet(RegNetRow(4, 8, 8, 2, 8), ratio)
