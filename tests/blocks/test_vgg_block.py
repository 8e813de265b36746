"""The VGG block against its paper (Simonyan and Zisserman, 2014)."""

import math

import pytest
import torch
from torch import nn

from cnnarch.blocks import VGGBlock
from cnnarch.testing import assert_close, assert_parameters


def test_a_block_has_3x3_convolutions_with_stride_1_and_biases() -> None:
    block = VGGBlock(3, 8, 2)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convs] == [(3, 8), (8, 8)]
    assert {(c.kernel_size, c.stride, c.padding) for c in convs} == {((3, 3), (1, 1), (1, 1))}
    assert_parameters(block, (3 * 9 + 1) * 8 + (8 * 9 + 1) * 8)


def test_the_output_matches_the_equation() -> None:
    block = VGGBlock(3, 8, 2, last_kernel_size=1)
    first, second = (block[i].conv for i in range(2))
    x = torch.randn(2, 3, 9, 10)
    y = nn.functional.conv2d(x, first.weight, first.bias, padding=1).clamp(min=0)
    y = nn.functional.conv2d(y, second.weight, second.bias).clamp(min=0)
    y = torch.stack([y[..., i : i + 8 : 2, j : j + 10 : 2] for i in (0, 1) for j in (0, 1)])
    assert_close(block(x), y.amax(0))


def test_a_norm_is_between_convolution_and_relu_and_the_bias_is_kept() -> None:
    block = VGGBlock(3, 8, 1, norm=nn.BatchNorm2d)
    assert [type(m) for m in block[0]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert block[0].conv.bias is not None


def test_the_pool_halves_the_size_rounding_down_and_can_be_omitted() -> None:
    x = torch.randn(1, 3, 9, 7)
    assert VGGBlock(3, 4, 1)(x).shape == (1, 4, 4, 3)
    assert VGGBlock(3, 4, 1, pool=False)(x).shape == (1, 4, 9, 7)


def test_weights_use_glorot_initialization_and_biases_are_zero() -> None:
    """Weights are uniform with variance 2 / (fan_in + fan_out), so at most sqrt(3 * variance)."""
    conv = VGGBlock(32, 64, 1)[0].conv
    variance = 2 / (9 * 32 + 9 * 64)
    bound = math.sqrt(3 * variance)
    assert 0.99 * bound < conv.weight.abs().max() <= bound
    assert conv.weight.var().item() == pytest.approx(variance, rel=0.05)
    assert conv.bias.abs().max() == 0


@pytest.mark.parametrize(("channels", "depth"), [(0, 2), (8, 0), (8, 1.5)])
def test_values_that_are_not_positive_integers_are_rejected(channels: int, depth: int) -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1, got"):
        VGGBlock(3, channels, depth)
