"""Dual path blocks against the paper (Chen et al., 2017)."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d

from cnnarch.blocks import DualPath
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def unit(x: Tensor, layers: nn.Module, stride: int = 1, groups: int = 1) -> Tensor:
    """Compute BN, ReLU and a convolution from their tensors, in eval mode."""
    norm, weight = layers.norm, layers.conv.weight
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    activated = batch_norm(x, *statistics, training=False, eps=1e-5).clamp(min=0)
    return conv2d(activated, weight, None, stride, weight.shape[-1] // 2, groups=groups)


def branch(block: DualPath, x: Tensor, stride: int = 1) -> Tensor:
    parts = block.branch
    y = unit(unit(x, parts.reduce), parts.conv, stride, groups=2)
    return unit(y, parts.expand)


def test_a_block_adds_to_the_residual_path_and_appends_to_the_dense_path() -> None:
    block = DualPath(12, 8, growth_rate=3, groups=2, group_width=5)
    x = torch.randn(2, 12, 7, 6)
    randomize_norms(block, x)
    new = branch(block, x)
    expected = torch.cat([x[:, :8] + new[:, :8], x[:, 8:], new[:, 8:]], 1)
    assert expected.shape == (2, 12 + 3, 7, 6) == (2, block.out_channels, 7, 6)
    assert_close(block(x), expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_projection_computes_both_paths(stride: int) -> None:
    """Its dense path has 2k channels, and the block appends k more."""
    block = DualPath(5, 8, stride, growth_rate=3, groups=2, group_width=5, project=True)
    x = torch.randn(2, 5, 7, 6)
    randomize_norms(block, x)
    kept, new = unit(x, block.shortcut, stride), branch(block, x, stride)
    assert kept.shape[1] == 8 + 2 * 3
    expected = torch.cat([kept[:, :8] + new[:, :8], kept[:, 8:], new[:, 8:]], 1)
    assert expected.shape[1] == 8 + 3 * 3 == block.out_channels
    assert_close(block(x), expected)


def test_the_projection_and_the_branch_have_norms_of_their_own() -> None:
    block = DualPath(5, 8, growth_rate=3, group_width=5, project=True)
    norms = [m.num_features for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [5, 5, 5, 5]  # the projection's, and those before the 1x1, 3x3 and 1x1


@pytest.mark.parametrize(("in_channels", "stride"), [(8, 1), (12, 2)])
def test_a_block_that_needs_a_projection_is_rejected_without_one(
    in_channels: int, stride: int
) -> None:
    sentence = f"without a projection, .* got stride {stride} and in_channels {in_channels}"
    with pytest.raises(ValueError, match=sentence):
        DualPath(in_channels, 8, stride, growth_rate=3, group_width=5)


@pytest.mark.parametrize("name", ["growth_rate", "groups", "group_width"])
def test_counts_out_of_range_are_rejected(name: str) -> None:
    counts = {"growth_rate": 3, "groups": 2, "group_width": 5, name: 0}
    with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, got 0"):
        DualPath(12, 8, **counts)
