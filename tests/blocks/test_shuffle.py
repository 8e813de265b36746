"""ShuffleNet units against their papers' figures, with functional reimplementations."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d

from cnnarch.blocks import ChannelShuffle, ConvNormAct, ShuffleUnit, ShuffleUnitV2
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def apply(layer: ConvNormAct, x: torch.Tensor) -> torch.Tensor:
    """Compute a convolution and its norm in eval mode, without activation."""
    conv, norm = layer.conv, layer.norm
    y = conv2d(x, conv.weight, None, conv.stride, conv.padding, 1, conv.groups)
    return batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def test_shuffle_interleaves_the_groups() -> None:
    x = torch.arange(12.0).view(1, 12, 1, 1)
    expected = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert ChannelShuffle(3)(x).flatten().tolist() == expected


def test_shuffles_with_complementary_groups_are_inverse() -> None:
    x = torch.randn(2, 12, 3, 3)
    assert torch.equal(ChannelShuffle(4)(ChannelShuffle(3)(x)), x)


@pytest.mark.parametrize(("stride", "channels"), [(1, 24), (2, 48)])
def test_the_unit_is_fig_2(stride: int, channels: int) -> None:
    unit = ShuffleUnit(24, channels, stride, groups=3)
    x = torch.randn(2, 24, 7, 6)
    randomize_norms(unit, x)
    reduce, _, depthwise, expand = unit.branch
    assert (reduce.conv.groups, expand.conv.groups) == (3, 3)
    y = apply(reduce, x).relu()
    y = y.view(2, 3, -1, 7, 6).transpose(1, 2).reshape(y.shape)
    y = apply(expand, apply(depthwise, y))
    with torch.no_grad():
        if stride == 1:
            assert_close(unit(x), (y + x).relu())
        else:
            assert_close(unit(x), torch.cat([y, avg_pool2d(x, 3, 2, 1)], 1).relu())


@pytest.mark.parametrize(("stride", "channels"), [(1, 8), (2, 12)])
def test_the_unit_of_version_2_is_fig_3(stride: int, channels: int) -> None:
    unit = ShuffleUnitV2(8, channels, stride)
    x = torch.randn(2, 8, 7, 6)
    randomize_norms(unit, x)
    right = x[:, 4:] if stride == 1 else x
    reduce, depthwise, expand = unit.branch
    right = apply(expand, apply(depthwise, apply(reduce, right).relu())).relu()
    left = x[:, :4]
    if stride == 2:
        depthwise, pointwise = unit.shortcut
        left = apply(pointwise, apply(depthwise, x)).relu()
    with torch.no_grad():
        expected = torch.stack([left, right], dim=2).flatten(1, 2)  # alternating channels
        assert_close(unit(x), expected)


def test_only_the_first_convolution_may_be_ungrouped() -> None:
    branch = ShuffleUnit(24, 240, 2, groups=3, first_groups=1).branch
    assert [m.groups for m in branch.modules() if isinstance(m, nn.Conv2d)] == [1, 60, 3]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="groups must divide 24 channels, got 5"):
        ShuffleUnit(24, 24, groups=5)
    with pytest.raises(ValueError, match="out_channels must equal the 24 input channels with"):
        ShuffleUnit(24, 48)
    with pytest.raises(ValueError, match="out_channels must be a multiple of 4, and groups must"):
        ShuffleUnit(24, 24, 2)
    with pytest.raises(ValueError, match="out_channels must be even, got 9"):
        ShuffleUnitV2(8, 9, 2)
    with pytest.raises(ValueError, match="groups must be an integer of at least 1, got 0"):
        ChannelShuffle(0)
