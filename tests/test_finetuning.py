"""Preparing a network for training."""

import math

import pytest
import torch
from torch import nn

import cnnarch


def test_xavier_has_the_variance_of_its_paper() -> None:
    layer = nn.Linear(400, 200)
    cnnarch.init_weights(layer, "xavier")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert layer.bias.count_nonzero() == 0


def test_kaiming_has_the_variance_of_its_paper() -> None:
    layer = nn.Conv2d(64, 128, 3)
    cnnarch.init_weights(layer, "kaiming")
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)


def test_orthogonal_rows_are_orthogonal() -> None:
    layer = nn.Linear(32, 8)
    cnnarch.init_weights(layer, "orthogonal")
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(8), atol=1e-5, rtol=0)


def test_every_rule_reaches_every_layer() -> None:
    for rule in ("xavier", "kaiming", "orthogonal", "torch"):
        model = cnnarch.resnet18(num_classes=4)
        weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        for weight in weights:
            weight.data.fill_(7.0)
        cnnarch.init_weights(model, rule)
        assert all(weight.std() > 0 for weight in weights)


def test_an_unknown_rule_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match="no rule 'glorot'; the rules are xavier, kaiming"):
        cnnarch.init_weights(nn.Linear(1, 1), "glorot")
