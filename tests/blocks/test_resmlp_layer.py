"""The ResMLP layer against the paper's equations (Touvron et al., 2021, sec. 2)."""

import pytest
import torch
from torch import nn

from cnnarch.blocks import Affine, ResMLPLayer
from cnnarch.testing import assert_close


def test_the_layer_is_equations_2_and_3() -> None:
    layer = ResMLPLayer(12, 8, layer_scale=0.1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    x = torch.randn(2, 8, 3, 4)
    z = x.flatten(2).transpose(1, 2)
    a, b = layer.token_norm.alpha, layer.token_norm.beta
    linear = layer.token_linear
    mixed = (a * z + b).transpose(1, 2) @ linear.weight.T + linear.bias
    z = z + layer.token_scale.gamma * mixed.transpose(1, 2)
    a, b = layer.channel_norm.alpha, layer.channel_norm.beta
    expand, project = layer.channel_mlp.expand, layer.channel_mlp.project
    hidden = (a * z + b) @ expand.weight.T + expand.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    z = z + layer.channel_scale.gamma * (hidden @ project.weight.T + project.bias)
    assert_close(layer(x), z.transpose(1, 2).reshape(x.shape), 1e-6)


def test_affine_starts_as_the_identity() -> None:
    x = torch.randn(2, 5, 3)
    assert torch.equal(Affine(3)(x), x)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="tokens must be an integer of at least 1, got 0"):
        ResMLPLayer(0, 8)
    with pytest.raises(ValueError, match=r"channels must be an integer of at least 1, got 1\.5"):
        Affine(1.5)
