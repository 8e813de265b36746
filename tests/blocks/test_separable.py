"""Depthwise separable convolution against section 3.1 of the MobileNet paper."""

import pytest
import torch
from torch import nn

from cnnarch.analysis import count_macs
from cnnarch.blocks import DepthwiseSeparable
from cnnarch.testing import assert_close, assert_parameters, calibrate


def test_layers_are_depthwise_norm_relu_pointwise_norm_relu() -> None:
    """The order is that of Fig. 3, right."""
    leaves = [m for m in DepthwiseSeparable(8, 16).modules() if not any(m.children())]
    kinds = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 2
    assert [type(m) for m in leaves] == kinds


def test_each_channel_has_its_own_kernel_and_the_1x1_convolution_mixes_channels() -> None:
    block = DepthwiseSeparable(8, 16, 5)
    assert block.depthwise.conv.weight.shape == (8, 1, 5, 5)
    assert block.pointwise.conv.weight.shape == (16, 8, 1, 1)
    assert block.depthwise.conv.bias is block.pointwise.conv.bias is None


def test_the_depthwise_convolution_applies_the_stride() -> None:
    block = DepthwiseSeparable(8, 16, 3, stride=2)
    assert block.depthwise.conv.stride == (2, 2)
    assert block.pointwise.conv.stride == (1, 1)
    for side, out in ((32, 16), (33, 17)):
        assert block(torch.zeros(2, 8, side, side)).shape == (2, 16, out, out)


def test_the_parameter_count_matches_a_manual_calculation() -> None:
    # kernels, plus the norms' scales and shifts
    assert_parameters(DepthwiseSeparable(32, 64), 9 * 32 + 2 * 32 + 32 * 64 + 2 * 64)


@pytest.mark.parametrize(("channels", "kernel_size"), [(64, 3), (100, 5)])
def test_the_cost_matches_section_3_1(channels: int, kernel_size: int) -> None:
    """The ratio to a full convolution is 1 / N + 1 / D_K^2."""
    full = nn.Conv2d(32, channels, kernel_size, padding=kernel_size // 2)
    ratio = count_macs(DepthwiseSeparable(32, channels, kernel_size), (32, 14, 14)) / count_macs(
        full, (32, 14, 14)
    )
    assert ratio == pytest.approx(1 / channels + 1 / kernel_size**2)


@pytest.mark.parametrize("stride", [1, 2])
def test_output_matches_a_loop_over_channels(stride: int) -> None:
    block, x = DepthwiseSeparable(4, 6, 3, stride), torch.randn(2, 4, 9, 11)
    calibrate(block, torch.randn(8, 4, 9, 11))
    filtered = torch.cat(
        [
            nn.functional.conv2d(x[:, i : i + 1], kernel[None], stride=stride, padding=1)
            for i, kernel in enumerate(block.depthwise.conv.weight)
        ],
        1,
    )
    maps = block.depthwise.norm(filtered).relu()
    mixed = torch.einsum("oc,nchw->nohw", block.pointwise.conv.weight[:, :, 0, 0], maps)
    assert_close(block(x), block.pointwise.norm(mixed).relu())


def test_norm_activation_and_padding_can_be_chosen() -> None:
    block = DepthwiseSeparable(
        4, 8, 3, 2, padding="same", norm=lambda c: nn.GroupNorm(2, c), act=nn.SiLU
    )
    assert isinstance(block.depthwise.norm, nn.GroupNorm)
    assert isinstance(block.pointwise.norm, nn.GroupNorm)
    assert isinstance(block.depthwise.act, nn.SiLU)
    assert isinstance(block.pointwise.act, nn.SiLU)
    assert block.depthwise.conv.padding == (0, 0)
    assert block(torch.zeros(1, 4, 7, 7)).shape == (1, 8, 4, 4)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got 0"):
        DepthwiseSeparable(0, 8)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got -8"):
        DepthwiseSeparable(8, -8)
    with pytest.raises(ValueError, match="padding must be one of 'symmetric', 'same', got 'SAME'"):
        DepthwiseSeparable(8, 8, padding="SAME")
