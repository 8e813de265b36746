"""RegNet's blocks and its rule for widths (Radosavovic et al., 2020)."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, relu

from cnnarch.blocks import XBlock, quantized_linear_widths
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def test_widths_are_the_closest_powers_rounded_to_multiples_of_8() -> None:
    """Linear widths 8, 16, 24, 32, 40, 48, 56 have exponents 0, 1, 1.58, 2, 2.32, 2.58, 2.81."""
    assert quantized_linear_widths(7, 8, 8, 2) == [8, 16, 32, 32, 32, 64, 64]
    # Exponents 0, 0.41, 0.68, 0.89 for 16, 24, 32, 40 and base 2.8; 16 * 2.8 = 44.8 gives 48.
    assert quantized_linear_widths(4, 16, 8, 2.8) == [16, 16, 48, 48]


def test_the_four_parameters_of_x_200mf_give_its_stages() -> None:
    """Fig. 15 lists the widths 24, 56, 152, 368 and the depths 1, 1, 4, 7."""
    stages = Counter(quantized_linear_widths(13, 24, 36.44, 2.49))
    assert dict(stages) == {24: 1, 56: 1, 152: 4, 368: 7}


def test_without_slope_all_blocks_have_the_first_width() -> None:
    assert quantized_linear_widths(3, 24, 0, 2) == [24, 24, 24]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8, 8, 2), "depth must be an integer of at least 1, got 0"),
        ((4, 12, 8, 2), "w_0 must be a multiple of 8, got 12"),
        ((4, 8, -1, 2), "w_a must be a number of at least 0, got -1"),
        ((4, 8, 8, 1), "w_m must be a number above 1, got 1"),
    ],
)
def test_parameters_out_of_range_are_rejected(
    arguments: tuple[int, int, float, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quantized_linear_widths(*arguments)


@pytest.mark.parametrize("squeeze_ratio", [None, 0.25])
def test_a_block_matches_fig_4(squeeze_ratio: float | None) -> None:
    block = XBlock(8, 6, 2, group_width=3, squeeze_ratio=squeeze_ratio)
    x = torch.randn(2, 8, 9, 8)
    randomize_norms(block, x)

    def conv_norm(layer: nn.Module, x: torch.Tensor, **options: int) -> torch.Tensor:
        n = layer.norm
        y = conv2d(x, layer.conv.weight, **options)
        return batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, eps=1e-5)

    y = relu(conv_norm(block.branch.reduce, x))
    y = relu(conv_norm(block.branch.conv, y, stride=2, padding=1, groups=2))
    if squeeze_ratio is not None:  # the squeeze has a quarter of the block's input channels
        se = block.branch.attention
        assert se.reduce.weight.shape == (2, 6, 1, 1)
        means = y.mean((2, 3), keepdim=True)
        hidden = relu(conv2d(means, se.reduce.weight, se.reduce.bias))
        y = y * torch.sigmoid(conv2d(hidden, se.expand.weight, se.expand.bias))
    y = conv_norm(block.branch.expand, y)
    assert_close(block(x), relu(y + conv_norm(block.shortcut, x, stride=2)))


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="group_width must divide 12 channels, got 8"):
        XBlock(12, 12, group_width=8)
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        XBlock(1, 4, group_width=2, squeeze_ratio=0.25)
