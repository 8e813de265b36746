"""CBAM against the equations of Woo et al. (2018)."""

import pytest
import torch
from torch import Tensor, nn

from cnnarch.analysis import count_macs
from cnnarch.blocks import CBAM, ChannelAttention, SpatialAttention
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms


def test_one_network_scores_the_mean_and_the_maximum_of_each_channel() -> None:
    block = ChannelAttention(6, 2)
    x = torch.randn(2, 6, 5, 3)

    def mlp(z: Tensor) -> Tensor:
        hidden = (z @ block.reduce.weight.T + block.reduce.bias).relu()
        return hidden @ block.expand.weight.T + block.expand.bias

    gates = torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.flatten(2).max(2).values))
    assert_close(block(x), x * gates[:, :, None, None])


def test_a_7x7_convolution_scores_the_maximum_and_the_mean_of_each_position() -> None:
    block, x = SpatialAttention(), torch.randn(2, 6, 9, 8)
    randomize_norms(block, x)
    conv, norm = block.score.conv, block.score.norm
    pooled = torch.stack([x.max(1).values, x.mean(1)], 1)
    scores = nn.functional.conv2d(pooled, conv.weight, padding=3)
    scores = (scores - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
    assert_close(block(x), x * torch.sigmoid(scores * norm.weight + norm.bias))


def test_channels_come_before_positions() -> None:
    block, x = CBAM(8, 2), torch.randn(2, 8, 9, 8)
    randomize_norms(block, x)
    assert torch.equal(block(x), block.spatial(block.channel(x)))
    assert [*dict(block.named_children())] == ["channel", "spatial"]


def test_the_shared_network_counts_twice() -> None:
    """2 (64 * 4 + 4 * 64) for the two descriptors, and 2 * 49 at each of 35 positions."""
    block = CBAM(64, 4)
    assert count_macs(block, (64, 7, 5)) == 2 * (64 * 4 + 4 * 64) + 2 * 49 * 35
    assert_parameters(block, 64 * 4 + 4 + 4 * 64 + 64 + 2 * 49 + 2)


def test_invalid_widths_are_rejected() -> None:
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        CBAM(8, 0)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        SpatialAttention(4)


def test_gradients_are_correct() -> None:
    block = CBAM(4, 2).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))
