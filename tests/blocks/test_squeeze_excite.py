"""Squeeze-and-excitation against the paper's equations, timm and torchvision."""

import pytest
import timm.layers
import torch
import torchvision
from torch import nn

from cnnarch.blocks import SE
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order


def test_output_matches_equations_2_to_4_of_the_paper() -> None:
    block = SE(6, 2)
    nn.init.normal_(block.reduce.bias)
    nn.init.normal_(block.expand.bias)
    x = torch.randn(3, 6, 5, 4) + 1
    z = x.sum((2, 3)) / (5 * 4)  # eq. 2
    hidden = (z @ block.reduce.weight[:, :, 0, 0].T + block.reduce.bias).clamp(min=0)
    logits = hidden @ block.expand.weight[:, :, 0, 0].T + block.expand.bias
    s = 1 / (1 + (-logits).exp())  # eq. 3
    assert_close(block(x), x * s[:, :, None, None])  # eq. 4


def test_zero_weights_give_gates_of_one_half() -> None:
    block = SE(4, 2)
    nn.init.zeros_(block.expand.weight)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), x * 0.5)


def test_outputs_match_timm() -> None:
    ours, theirs = SE(32, 2), timm.layers.SEModule(32, rd_channels=2)
    copy_in_order(ours, theirs)
    x = torch.randn(2, 32, 7, 9)
    assert_close(ours(x), theirs(x))


def test_with_silu_outputs_match_the_block_in_torchvisions_efficientnet() -> None:
    ours = SE(96, 4, act=nn.SiLU)
    theirs = torchvision.ops.SqueezeExcitation(96, 4, activation=nn.SiLU)
    copy_in_order(ours, theirs)
    x = torch.randn(2, 96, 7, 9)
    assert_close(ours(x), theirs(x))


def test_both_activations_can_be_replaced() -> None:
    block = SE(8, 2, act=nn.SiLU, gate=nn.Hardsigmoid)
    assert [name for name, _ in block.named_children()] == ["reduce", "act", "expand", "gate"]
    nn.init.constant_(block.expand.bias, 9.0)  # Hardsigmoid(x) is exactly 1 for x >= 3
    nn.init.zeros_(block.expand.weight)
    x = torch.randn(1, 8, 2, 2)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("channels", "squeeze"), [(64, 4), (256, 16), (16, 1)])
def test_the_only_parameters_are_those_of_two_layers_with_biases(
    channels: int, squeeze: int
) -> None:
    assert_parameters(SE(channels, squeeze), 2 * channels * squeeze + squeeze + channels)


def test_weights_use_he_initialization_and_biases_are_zero() -> None:
    block = SE(512, 128)
    for layer in (block.reduce, block.expand):
        assert (layer.bias == 0).all()
        assert layer.weight.std().item() == pytest.approx((2 / layer.out_channels) ** 0.5, rel=0.02)


def test_maps_of_any_size_keep_their_shape() -> None:
    block = SE(4, 1)
    for size in ((1, 1), (1, 7), (5, 3)):
        assert block(torch.randn(2, 4, *size)).shape == (2, 4, *size)


def test_preserves_channels_last() -> None:
    x = torch.randn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    block = SE(8, 2).to(memory_format=torch.channels_last)
    assert block(x).is_contiguous(memory_format=torch.channels_last)


def test_gradients_are_correct() -> None:
    block = SE(3, 2, act=nn.SiLU).double()
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


def test_nonpositive_and_fractional_widths_are_rejected() -> None:
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        SE(8, 0)
    with pytest.raises(ValueError, match=r"channels must be an integer of at least 1, got 1\.5"):
        SE(1.5, 1)  # type: ignore[arg-type]
