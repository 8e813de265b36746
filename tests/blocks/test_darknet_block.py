"""Darknet's residual block (Redmon and Farhadi, 2018, Table 1)."""

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, leaky_relu

from cnnarch.blocks import DarknetResidual
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def unit(layer: ConvNormAct, x: torch.Tensor, slope: float) -> torch.Tensor:
    norm = layer.norm
    values = norm.running_mean, norm.running_var, norm.weight, norm.bias
    y = conv2d(x, layer.conv.weight, padding=layer.conv.kernel_size[0] // 2)
    return leaky_relu(batch_norm(y, *values, eps=1e-5), slope)


def test_the_sum_has_no_activation() -> None:
    block, x = DarknetResidual(6), torch.randn(2, 6, 9, 8)
    randomize_norms(block, x)
    reduce, conv = block.branch
    assert (reduce.conv.out_channels, conv.conv.out_channels) == (3, 6)
    assert_close(block(x), x + unit(conv, unit(reduce, x, 0.1), 0.1))


def test_hidden_width_and_activation_are_options() -> None:
    block = DarknetResidual(6, 4, act=nn.SiLU)
    assert block.branch.reduce.conv.out_channels == 4
    assert [type(m) for m in block.modules() if not [*m.children()]].count(nn.SiLU) == 2


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        DarknetResidual(0)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got -1"):
        DarknetResidual(4, -1)
