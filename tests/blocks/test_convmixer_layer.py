"""The ConvMixer layer against manual calculations."""

import pytest
import torch
from torch import nn

from cnnarch.blocks import ConvMixerLayer
from cnnarch.testing import assert_macs, assert_parameters


def test_parameters_and_multiply_adds() -> None:
    """81 * 64 + 64 (depthwise), 64 * 64 + 64 (1x1), 2 * 2 * 64 (norms)."""
    layer = ConvMixerLayer(64, 9)
    assert_parameters(layer, 5_184 + 64 + 4_096 + 64 + 256)
    assert_macs(layer, (5_184 + 4_096) * 16 * 16, (64, 16, 16))


def test_only_the_depthwise_convolution_has_a_shortcut() -> None:
    layer, x = ConvMixerLayer(4, 3).eval(), torch.randn(1, 4, 5, 5)
    expected = layer.pointwise(x + layer.depthwise(x))
    assert torch.equal(layer(x), expected)


def test_the_activation_precedes_the_norm() -> None:
    layer = ConvMixerLayer(4, 3, act=nn.ReLU)
    for part in (layer.depthwise, layer.pointwise):
        assert [type(m) for m in part] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        ConvMixerLayer(0, 3)
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        ConvMixerLayer(4, 2)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1"):
        ConvMixerLayer(4, 3, drop_path=1.0)
