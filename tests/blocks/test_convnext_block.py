"""The ConvNeXt block and layer scale against functional reimplementations."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from cnnarch.blocks import ConvNeXtBlock, LayerScale
from cnnarch.testing import assert_close, assert_parameters


def test_the_block_is_the_equation() -> None:
    block = ConvNeXtBlock(4, layer_scale=0.3)
    for parameter in block.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    x = torch.randn(2, 4, 9, 8)
    weight, bias = block.depthwise.weight, block.depthwise.bias
    y = conv2d(x, weight, bias, padding=3, groups=4).permute(0, 2, 3, 1)
    centred = y - y.mean(-1, keepdim=True)
    y = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    y = y * block.norm.weight + block.norm.bias
    y = y @ block.mlp.expand.weight.T + block.mlp.expand.bias
    y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
    y = y @ block.mlp.project.weight.T + block.mlp.project.bias
    assert_close(block(x), x + (block.scale.gamma * y).permute(0, 3, 1, 2), 1e-6)


def test_a_block_of_96_channels_has_the_parameters_of_fig_4() -> None:
    """49 * 96 + 96 (depthwise), 2 * 96 (norm), 8 * 96 * 96 + 5 * 96 (MLP), 96 (gamma)."""
    assert_parameters(ConvNeXtBlock(96), 4_704 + 96 + 192 + 73_728 + 480 + 96)


def test_a_new_block_is_almost_the_identity() -> None:
    x = torch.randn(1, 8, 7, 7)
    assert (ConvNeXtBlock(8)(x) - x).abs().max() < 1e-5


def test_layer_scale_multiplies_the_last_dimension() -> None:
    scale = LayerScale(3, 0.1)
    assert scale.gamma.tolist() == pytest.approx([0.1] * 3)
    nn.init.normal_(scale.gamma)
    x = torch.randn(2, 5, 3)
    assert torch.equal(scale(x), x * scale.gamma.view(1, 1, 3))


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        ConvNeXtBlock(0)
    with pytest.raises(ValueError, match="value must be a number above 0, got 0"):
        LayerScale(4, 0)
