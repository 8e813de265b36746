"""The residual blocks of the ResNet paper (Fig. 5) and of ResNeXt (Fig. 3c)."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, relu

from cnnarch.blocks import SE, Bottleneck, Residual, ResidualSum, ZeroPadShortcut
from cnnarch.testing import assert_close, assert_parameters, calibrate


def conv_norm(layer: nn.Module, x: Tensor, **options: int) -> Tensor:
    norm = layer.norm
    y = conv2d(x, layer.conv.weight, **options)
    return batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def test_residual_matches_the_equation_in_fig_5_left() -> None:
    block = Residual(4, 6, 2)
    x = torch.randn(2, 4, 9, 8)
    calibrate(block, x)
    y = relu(conv_norm(block.branch.conv1, x, stride=2, padding=1))
    y = conv_norm(block.branch.conv2, y, padding=1)
    assert_close(block(x), relu(y + conv_norm(block.shortcut, x, stride=2)))


@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_bottleneck_matches_the_equation_in_fig_5_right(stride_in_1x1: bool) -> None:
    block = Bottleneck(4, 6, 2, stride_in_1x1=stride_in_1x1)
    x = torch.randn(2, 4, 9, 8)
    calibrate(block, x)
    first, second = (2, 1) if stride_in_1x1 else (1, 2)
    y = relu(conv_norm(block.branch.reduce, x, stride=first))
    y = relu(conv_norm(block.branch.conv, y, stride=second, padding=1))
    y = conv_norm(block.branch.expand, y)
    assert_close(block(x), relu(y + conv_norm(block.shortcut, x, stride=2)))


def test_the_input_is_added_if_the_shape_is_unchanged() -> None:
    for block in (Residual(8, 8), Bottleneck(8, 2)):
        assert type(block.shortcut) is nn.Identity
        last = [*block.branch][-1].norm
        nn.init.zeros_(last.weight)
        x = torch.randn(1, 8, 4, 4)
        assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize(
    ("in_channels", "channels", "stride"), [(8, 8, 2), (8, 16, 1), (16, 8, 1), (8, 16, 2)]
)
def test_a_block_that_changes_the_shape_has_a_shortcut(
    in_channels: int, channels: int, stride: int
) -> None:
    block = Residual(in_channels, channels, stride)
    assert type(block.shortcut) is not nn.Identity
    assert block(torch.randn(2, in_channels, 7, 5)).shape == (2, channels, *map_of(7, 5, stride))


def map_of(height: int, width: int, stride: int) -> tuple[int, int]:
    return -(-height // stride), -(-width // stride)


def test_a_block_with_option_a_has_only_its_two_convolutions() -> None:
    block = Residual(8, 16, 2, make_shortcut=ZeroPadShortcut)
    assert_parameters(block, 9 * (8 * 16 + 16 * 16) + 2 * 2 * 16)


def test_cardinality_splits_the_3x3_convolution_into_groups() -> None:
    """ResNeXt's template: 256 input channels, 32 groups of 4 channels (70k weights in total)."""
    block = Bottleneck(256, 64, groups=32, group_width=4)
    conv = block.branch.conv.conv
    assert (conv.in_channels, conv.out_channels, conv.groups) == (128, 128, 32)
    weights = sum(m.weight.numel() for m in block.modules() if isinstance(m, nn.Conv2d))
    assert weights == 256 * 128 + 32 * 4 * 3 * 3 * 4 + 128 * 256 == 70_144


def test_groups_without_a_width_split_the_channels_evenly() -> None:
    assert Bottleneck(16, 8, groups=4).branch.conv.conv.weight.shape == (8, 2, 3, 3)


@pytest.mark.parametrize("make", [Residual, Bottleneck])
def test_attention_ends_the_branch(make: type[Residual | Bottleneck]) -> None:
    block = make(8, 8, attention=lambda channels: SE(channels, channels // 4))
    name, last = [*block.branch.named_children()][-1]
    assert name == "attention"
    assert last.reduce.in_channels == block.out_channels


def test_any_module_can_be_the_branch() -> None:
    branch = nn.Conv2d(3, 3, 5, padding=2)
    block = ResidualSum(branch, 3, 3)
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(block(x), (branch(x) + x).relu())


def test_nonpositive_counts_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        Residual(4, 0)
    with pytest.raises(ValueError, match="groups must be an integer of at least 1, got 0"):
        Bottleneck(4, 4, groups=0)
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got -2"):
        Bottleneck(-2, 4)


@pytest.mark.parametrize("make", [Residual, Bottleneck])
def test_gradients_are_correct(make: type[Residual | Bottleneck]) -> None:
    block = make(3, 2, 2).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))
