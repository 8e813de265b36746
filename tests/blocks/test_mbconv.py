"""MBConv against the papers, torchvision's block and manual calculations."""

import pytest
import torch
from torch import nn
from torchvision.models._utils import _make_divisible
from torchvision.models.efficientnet import MBConv as TorchvisionMBConv
from torchvision.models.efficientnet import MBConvConfig

from cnnarch.blocks import SE, MBConv, StochasticDepth, round_channels
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


def test_the_branch_expands_filters_excites_and_projects() -> None:
    block = MBConv(16, 16, 3, 1, 6)
    names = [name for name, _ in block.branch.named_children()]
    assert names == ["expand", "depthwise", "se", "project", "drop_path"]


def test_the_expansion_is_a_1x1_convolution() -> None:
    block = MBConv(16, 24, 5, 1, 6)
    assert block.branch.expand.conv.weight.shape == (96, 16, 1, 1)
    assert block.branch.depthwise.conv.weight.shape == (96, 1, 5, 5)
    assert block.branch.project.conv.weight.shape == (24, 96, 1, 1)


def test_expansion_1_omits_the_expansion_convolution() -> None:
    names = [name for name, _ in MBConv(16, 24, 3, 1, 1).branch.named_children()]
    assert names == ["depthwise", "se", "project"]


def test_the_projection_is_linear() -> None:
    block = MBConv(16, 16, 3, 1, 6)
    assert [type(m) for m in block.branch.project] == [nn.Conv2d, nn.BatchNorm2d]


def test_the_depthwise_convolution_applies_the_stride() -> None:
    block = MBConv(16, 24, 5, 2, 6)
    strides = {n: m.stride for n, m in block.named_modules() if isinstance(m, nn.Conv2d)}
    assert [name for name, stride in strides.items() if stride == (2, 2)] == [
        "branch.depthwise.conv"
    ]


@pytest.mark.parametrize(("in_channels", "squeeze"), [(24, 6), (18, 4), (3, 1), (1, 1)])
def test_the_squeeze_is_a_quarter_of_the_input_width_not_of_the_expanded_width(
    in_channels: int, squeeze: int
) -> None:
    se = MBConv(in_channels, 40, 5, 2, 6).branch.se
    assert isinstance(se, SE)
    assert se.reduce.weight.shape == (squeeze, 6 * in_channels, 1, 1)
    assert isinstance(se.act, nn.SiLU)
    assert isinstance(se.gate, nn.Sigmoid)


def test_se_ratio_0_omits_squeeze_and_excitation() -> None:
    block = MBConv(16, 16, 3, 1, 6, se_ratio=0, act=nn.ReLU6)
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
    block = MBConv(16, out_channels, 3, stride, 6, drop_path=rate)
    assert any(isinstance(m, StochasticDepth) for m in block.modules()) == residual


def test_a_dropped_image_equals_the_input_and_a_kept_one_adds_a_scaled_branch() -> None:
    block, x = MBConv(8, 8, 3, 1, 6, drop_path=0.5), torch.randn(32, 8, 6, 6)
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
    ours = MBConv(in_channels, out_channels, kernel_size, stride, expansion)
    config = MBConvConfig(expansion, kernel_size, stride, in_channels, out_channels, 1, 1.0, 1.0)
    theirs = TorchvisionMBConv(config, 0.0, nn.BatchNorm2d).eval()
    x = torch.randn(4, in_channels, 15, 18)
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
        MBConv(0, 8, 3, 1, 6)
    with pytest.raises(ValueError, match="expansion must be an integer of at least 1, got 0"):
        MBConv(8, 8, 3, 1, 0)
    with pytest.raises(ValueError, match=r"se_ratio must be in \[0, 1\), got -0.25"):
        MBConv(8, 8, 3, 1, 6, se_ratio=-0.25)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        MBConv(8, 16, 3, 1, 6, drop_path=1)
    with pytest.raises(ValueError, match="padding must be one of"):
        MBConv(8, 8, 3, 1, 6, padding="valid")
