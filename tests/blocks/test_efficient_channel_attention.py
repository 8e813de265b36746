"""Efficient channel attention against the paper's equations and timm."""

import pytest
import timm.layers
import torch

from cnnarch.blocks import ECA, init_weights
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order


def test_a_gate_depends_on_its_channel_and_the_channels_next_to_it() -> None:
    """Eq. 7, with zeros beyond the first and the last channel."""
    block, x = ECA(4, 3), torch.randn(2, 4, 5, 3) + 1
    left, own, right = block.conv.weight.flatten()
    z = x.sum((2, 3)) / (5 * 3)
    zero = torch.zeros(2)
    for i in range(4):
        before = z[:, i - 1] if i > 0 else zero
        after = z[:, i + 1] if i < 3 else zero
        gate = 1 / (1 + (-(left * before + own * z[:, i] + right * after)).exp())
        assert_close(block(x)[:, i], x[:, i] * gate[:, None, None])


@pytest.mark.parametrize(
    ("channels", "size"), [(1, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)]
)
def test_the_kernel_grows_with_the_logarithm_of_the_channels(channels: int, size: int) -> None:
    """(log2(C) + 1) / 2 is 3.5, 4, 4.5, 5, 5.5 and 6 from 64 to 2048 channels (eq. 12)."""
    assert_parameters(ECA(channels), size)


def test_outputs_match_timm() -> None:
    ours, theirs = ECA(256), timm.layers.EcaModule(256)
    copy_in_order(ours, theirs)
    x = torch.randn(2, 256, 7, 9)
    assert_close(ours(x), theirs(x))


def test_maps_of_any_size_keep_their_shape() -> None:
    for size in ((1, 1), (1, 7), (5, 3)):
        assert ECA(8)(torch.randn(2, 8, *size)).shape == (2, 8, *size)


def test_preserves_channels_last() -> None:
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    assert ECA(8)(x).is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_correct() -> None:
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ECA(4).double(), (x,))


def test_invalid_sizes_are_rejected() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        ECA(64, 4)
    with pytest.raises(ValueError, match="kernel_size must be an integer of at least 1, got 0"):
        ECA(64, 0)
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        ECA(0)


def test_init_weights_reinitializes_the_kernel() -> None:
    block = ECA(64)
    before = block.conv.weight.clone()
    init_weights(block, "kaiming")
    assert not torch.equal(block.conv.weight, before)
