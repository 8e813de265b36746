"""The inverted residual against the papers, torchvision's block and manual calculations."""

from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models._utils import _make_divisible
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig, MBConvConfig
from torchvision.models.efficientnet import MBConv as TorchvisionMBConv
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual

from cnnarch.blocks import SE, InvertedResidual, StochasticDepth, round_channels
from cnnarch.blocks.inverted_residual import squeeze_input
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms

squeeze_silu = partial(squeeze_input, act=nn.SiLU)


def test_the_branch_expands_filters_excites_and_projects() -> None:
    block = InvertedResidual(16, 96, 16, se=squeeze_input)
    names = [name for name, _ in block.branch.named_children()]
    assert names == ["expand", "depthwise", "se", "project", "drop_path"]


def test_the_expansion_is_a_1x1_convolution() -> None:
    block = InvertedResidual(16, 96, 24, 5)
    assert block.branch.expand.conv.weight.shape == (96, 16, 1, 1)
    assert block.branch.depthwise.conv.weight.shape == (96, 1, 5, 5)
    assert block.branch.project.conv.weight.shape == (24, 96, 1, 1)


def test_expansion_1_omits_the_expansion_convolution() -> None:
    names = [
        name for name, _ in InvertedResidual(16, 16, 24, se=squeeze_input).branch.named_children()
    ]
    assert names == ["depthwise", "se", "project"]


def test_the_projection_is_linear() -> None:
    block = InvertedResidual(16, 96, 16, se=squeeze_input)
    assert [type(m) for m in block.branch.project] == [nn.Conv2d, nn.BatchNorm2d]


def test_the_depthwise_convolution_applies_the_stride() -> None:
    block = InvertedResidual(16, 96, 24, 5, 2)
    strides = {n: m.stride for n, m in block.named_modules() if isinstance(m, nn.Conv2d)}
    assert [name for name, stride in strides.items() if stride == (2, 2)] == [
        "branch.depthwise.conv"
    ]


@pytest.mark.parametrize(("in_channels", "squeeze"), [(24, 6), (18, 4), (3, 1), (1, 1)])
def test_the_squeeze_is_a_quarter_of_the_input_width_not_of_the_expanded_width(
    in_channels: int, squeeze: int
) -> None:
    se = InvertedResidual(in_channels, 6 * in_channels, 40, 5, 2, se=squeeze_silu).branch.se
    assert isinstance(se, SE)
    assert se.reduce.weight.shape == (squeeze, 6 * in_channels, 1, 1)
    assert isinstance(se.act, nn.SiLU)
    assert isinstance(se.gate, nn.Sigmoid)


def test_squeeze_and_excitation_is_omitted_by_default() -> None:
    block = InvertedResidual(16, 96, 16)
    assert not any(isinstance(m, SE) for m in block.modules())
    # MobileNetV2's block: three kernels, three norms.
    assert_parameters(block, 16 * 96 + 2 * 96 + 9 * 96 + 2 * 96 + 96 * 16 + 2 * 16)


@pytest.mark.parametrize(
    ("out_channels", "stride", "residual"), [(16, 1, True), (24, 1, False), (16, 2, False)]
)
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_every_residual_block_has_drop_path_at_any_rate(
    out_channels: int, stride: int, residual: bool, rate: float
) -> None:
    block = InvertedResidual(16, 96, out_channels, 3, stride, drop_path=rate)
    assert any(isinstance(m, StochasticDepth) for m in block.modules()) == residual


def test_a_dropped_image_equals_the_input_and_a_kept_one_adds_a_scaled_branch() -> None:
    block, x = InvertedResidual(8, 48, 8, drop_path=0.5), torch.randn(32, 8, 6, 6)
    randomize_norms(block, x)
    full = block(x)
    block.branch.drop_path.train()
    y = block(x)
    dropped = [torch.equal(image, original) for image, original in zip(y, x, strict=True)]
    assert 0 < sum(dropped) < 32
    kept = ~torch.tensor(dropped)
    assert_close(y[kept], (x + 2 * (full - x))[kept])


@pytest.mark.parametrize(
    ("in_channels", "out_channels", "kernel_size", "stride", "expansion"),
    [(16, 16, 3, 1, 6), (16, 24, 5, 2, 6), (32, 16, 3, 1, 1), (24, 24, 5, 1, 4)],
)
def test_output_matches_torchvision(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int
) -> None:
    shape = (in_channels, in_channels * expansion, out_channels, kernel_size, stride)
    ours = InvertedResidual(*shape, se=squeeze_silu, act=nn.SiLU)
    config = MBConvConfig(expansion, kernel_size, stride, in_channels, out_channels, 1, 1.0, 1.0)
    theirs = TorchvisionMBConv(config, 0.0, nn.BatchNorm2d).eval()
    x = torch.randn(4, in_channels, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("expansion", "stride"), [(1, 1), (4, 1), (4, 2)])
def test_a_fused_block_matches_torchvision(expansion: int, stride: int) -> None:
    ours = InvertedResidual(16, 16 * expansion, 16, 3, stride, fused=True, act=nn.SiLU)
    config = FusedMBConvConfig(expansion, 3, stride, 16, 16, 1)
    theirs = FusedMBConv(config, 0.0, nn.BatchNorm2d).eval()
    x = torch.randn(4, 16, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


def test_a_fused_block_has_one_full_convolution_and_expands_with_it() -> None:
    names = [name for name, _ in InvertedResidual(8, 32, 16, fused=True).branch.named_children()]
    assert names == ["fused", "project"]
    assert InvertedResidual(8, 32, 16, fused=True).branch.fused.conv.weight.shape == (32, 8, 3, 3)
    names = [name for name, _ in InvertedResidual(8, 8, 16, fused=True).branch.named_children()]
    assert names == ["fused"]


@pytest.mark.parametrize(
    ("out_channels", "stride", "expansion"), [(16, 1, 6), (24, 2, 6), (8, 1, 1)]
)
def test_the_default_block_matches_torchvisions_mobilenet_v2(
    out_channels: int, stride: int, expansion: int
) -> None:
    ours = InvertedResidual(16, 16 * expansion, out_channels, 3, stride)
    theirs = TorchvisionInvertedResidual(16, out_channels, stride, expansion).eval()
    x = 5 * torch.randn(4, 16, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


def test_round_channels_returns_the_widths_of_efficientnet_b2() -> None:
    widths = [round_channels(c, 1.1) for c in (32, 16, 24, 40, 80, 112, 192, 320, 1280)]
    assert widths == [32, 16, 24, 48, 88, 120, 208, 352, 1408]


def test_round_channels_rounds_up_if_rounding_down_would_lose_a_tenth() -> None:
    assert round_channels(11) == 16  # 8 would be 27% less
    assert round_channels(75) == 72  # 4% less is acceptable
    assert round_channels(1) == 8


def test_round_channels_matches_torchvision() -> None:
    for channels in range(1, 400):
        for width in (0.1, 0.35, 0.75, 1.0, 1.1, 1.4, 2.2, 4.3):
            assert round_channels(channels, width) == _make_divisible(channels * width, 8)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got 0"):
        InvertedResidual(0, 8, 8)
    with pytest.raises(ValueError, match="hidden_channels must be an integer of at least 1, got 0"):
        InvertedResidual(8, 0, 8)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        InvertedResidual(8, 48, 16, drop_path=1)
    with pytest.raises(ValueError, match="padding must be one of"):
        InvertedResidual(8, 48, 8, padding="valid")
