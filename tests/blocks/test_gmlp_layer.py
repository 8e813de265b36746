"""The gMLP layer against the paper's equations (Liu et al., 2021, sec. 2)."""

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import GMLPLayer, SpatialGate
from cnnarch.testing import assert_close


def normalize(x: Tensor, norm: nn.LayerNorm, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * norm.weight + norm.bias


def test_the_layer_is_equations_1_and_2() -> None:
    layer = GMLPLayer(12, 8, 20)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    x = torch.randn(2, 8, 3, 4)
    z = x.flatten(2).transpose(1, 2)
    expand, gate, project = layer.mlp.expand, layer.mlp.gate, layer.mlp.project
    hidden = normalize(z, layer.norm, 1e-6) @ expand.weight.T + expand.bias
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    first, second = hidden[..., :10], normalize(hidden[..., 10:], gate.norm, 1e-5)
    mixed = second.transpose(1, 2) @ gate.linear.weight.T + gate.linear.bias
    z = z + (first * mixed.transpose(1, 2)) @ project.weight.T + project.bias
    assert_close(layer(x), z.transpose(1, 2).reshape(x.shape), 1e-6)


def test_a_new_gate_passes_the_first_half() -> None:
    x = torch.randn(2, 6, 8)
    assert (SpatialGate(6, 8)(x) - x[..., :4]).abs().max() < 1e-4


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be even, got 7"):
        SpatialGate(4, 7)
    with pytest.raises(ValueError, match="hidden must be an integer of at least 2, got 0"):
        GMLPLayer(4, 8, 0)
