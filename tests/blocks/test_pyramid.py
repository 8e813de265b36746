"""Pyramidal residual blocks against their paper (Han et al., 2016) and pytorchcv."""

import pytest
import torch
from pytorchcv.models.pyramidnet import PyrUnit
from torch import nn

from cnnarch.blocks import PyramidBottleneck, PyramidResidual, pooled_zero_pad
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


@pytest.mark.parametrize(("in_channels", "channels", "stride"), [(8, 8, 1), (4, 8, 1), (8, 12, 2)])
@pytest.mark.parametrize("bottleneck", [False, True])
def test_outputs_match_pytorchcv(
    bottleneck: bool, in_channels: int, channels: int, stride: int
) -> None:
    width = channels // 4 if bottleneck else channels
    ours = (PyramidBottleneck if bottleneck else PyramidResidual)(in_channels, width, stride)
    theirs = PyrUnit(in_channels, channels, stride, bottleneck)
    x = torch.randn(2, in_channels, 8, 7)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs.eval()(x))


def test_no_activation_precedes_the_first_convolution_or_follows_the_sum() -> None:
    basic, bottleneck = PyramidResidual(4, 4), PyramidBottleneck(8, 2)
    layers = [type(m).__name__.removesuffix("2d") for m in basic.branch]
    assert layers == ["BatchNorm", "Conv", "BatchNorm", "ReLU", "Conv", "BatchNorm"]
    activations = [name for name, m in bottleneck.branch.named_children() if isinstance(m, nn.ReLU)]
    assert activations == ["act1", "act2"]
    nn.init.zeros_(basic.branch.norm3.weight)
    x = torch.randn(2, 4, 3, 3)
    assert torch.equal(basic(x), x)


def test_the_shortcut_averages_pixels_and_appends_zero_channels() -> None:
    x = torch.arange(6, dtype=torch.float).reshape(1, 1, 2, 3)
    y = pooled_zero_pad(1, 2, 2)(x)
    assert y.tolist() == [[[[2.0, 3.5]], [[0.0, 0.0]]]]  # (0 + 1 + 3 + 4) / 4 and (2 + 5) / 2
    assert torch.equal(pooled_zero_pad(1, 2, 1)(x)[:, :1], x)


def test_the_only_parameters_are_those_of_the_branch() -> None:
    convs, norms = 9 * 16 * 20 + 9 * 20 * 20, 2 * (16 + 20 + 20)
    assert_parameters(PyramidResidual(16, 20, 2), convs + norms)
    convs, norms = 64 * 20 + 9 * 20 * 20 + 20 * 80, 2 * (64 + 20 + 20 + 80)
    assert_parameters(PyramidBottleneck(64, 20, 2), convs + norms)


def test_a_block_cannot_be_narrower_than_its_input() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 16, got 8"):
        PyramidResidual(16, 8)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 16, got 8"):
        PyramidBottleneck(16, 2)
