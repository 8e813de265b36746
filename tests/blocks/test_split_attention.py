"""Split attention against its paper (Zhang et al., 2020) and timm."""

import pytest
import timm.layers
import torch
from timm.models.resnest import ResNestBottleneck
from torch import nn

from cnnarch.blocks import SplitAttention, SplitAttentionBottleneck
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


def test_output_matches_the_equations_of_section_3() -> None:
    layer = SplitAttention(4, 2, radix=3)
    x = torch.randn(3, 12, 5, 6)
    randomize_norms(layer, x)
    first, second, third = x.split(4, 1)
    s = (first + second + third).sum((2, 3)) / (5 * 6)
    hidden = layer.attention.reduce(s[:, :, None, None])
    scores = layer.attention.expand(hidden)[:, :, 0, 0].split(4, 1)
    total = sum(score.exp() for score in scores)
    weights = [(score.exp() / total)[:, :, None, None] for score in scores]
    assert_close(layer(x), weights[0] * first + weights[1] * second + weights[2] * third)


def test_equal_splits_are_returned_unchanged() -> None:
    """The weights of each channel sum to one."""
    layer = SplitAttention(4, 8).eval()
    split = torch.randn(2, 4, 3, 3)
    assert_close(layer(torch.cat([split, split], 1)), split)


@pytest.mark.parametrize("radix", [2, 3, 4])
def test_outputs_match_timm(radix: int) -> None:
    """The module of timm contains the 3x3 convolution that computes the splits."""
    theirs = timm.layers.SplitAttn(24, radix=radix, rd_channels=4, norm_layer=nn.BatchNorm2d)
    ours = nn.Sequential(theirs.conv, theirs.bn0, theirs.act0)
    ours.append(SplitAttention(24, 4 * radix, radix))
    x = torch.randn(2, 24, 7, 9)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("in_channels", "channels", "stride"), [(32, 8, 1), (16, 8, 1), (32, 8, 2), (64, 80, 2)]
)
def test_a_block_matches_timm(in_channels: int, channels: int, stride: int) -> None:
    """The squeeze has at least 32 channels, and 40 in a block of 80."""
    downsample = None
    if stride != 1 or in_channels != 4 * channels:
        pool = nn.Identity()
        if stride != 1:
            pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        conv = nn.Conv2d(in_channels, 4 * channels, 1, bias=False)
        downsample = nn.Sequential(pool, conv, nn.BatchNorm2d(4 * channels))
    theirs = ResNestBottleneck(in_channels, channels, stride, downsample, radix=2, avd=True)
    ours = SplitAttentionBottleneck(in_channels, channels, stride)
    x = torch.randn(2, in_channels, 9, 8)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs.eval()(x))


def test_the_parameters_are_those_of_two_layers_and_a_norm() -> None:
    layers = 64 * 32 + 32 + 32 * 128 + 128
    assert_parameters(SplitAttention(64, 32), layers + 2 * 32)


def test_one_image_cannot_be_normalized_in_training() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        SplitAttention(4, 2)(torch.randn(1, 8, 5, 5))


def test_wrong_numbers_are_rejected() -> None:
    with pytest.raises(ValueError, match="radix must be an integer of at least 2, got 1"):
        SplitAttention(4, 2, 1)
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        SplitAttention(4, 0)
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        SplitAttentionBottleneck(4, 0)
