"""The star operation and block against the paper's equations and timm."""

import pytest
import torch
from timm.models.starnet import Block
from torch import nn

from cnnarch.blocks import StarBlock, StarOperation, StochasticDepth
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms


def test_the_star_operation_is_the_equation() -> None:
    """Table 9, "act. one": act(x1) * x2."""
    star = StarOperation(3, 5)
    for parameter in star.parameters():
        nn.init.normal_(parameter)
    x = 3 * torch.randn(2, 3, 4, 6)
    first, second = (
        torch.einsum("oi,nihw->nohw", layer.weight[..., 0, 0], x) + layer.bias.view(-1, 1, 1)
        for layer in (star.activated, star.linear)
    )
    assert (first > 6).any()  # ReLU6, not ReLU
    assert_close(star(x), first.clamp(0, 6) * second)


@pytest.mark.parametrize("expansion", [3, 4])
def test_the_block_matches_timm(expansion: int) -> None:
    ours = StarBlock(8, expansion=expansion)
    theirs = Block(8, expansion).eval()
    x = torch.randn(4, 8, 9, 11)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    randomize_norms(ours, x)
    parts = {
        "dwconv": ours.branch.depthwise,
        "g": ours.branch.project,
        "f1.conv": ours.branch.star.activated,
        "f2.conv": ours.branch.star.linear,
        "dwconv2.conv": ours.branch.last,
    }
    theirs.load_state_dict(
        {
            f"{name}.{key.replace('norm', 'bn')}": tensor
            for name, part in parts.items()
            for key, tensor in part.state_dict().items()
        }
    )
    assert_close(ours(x), theirs(x))


def test_parameters_are_those_of_five_convolutions_with_biases_and_two_norms() -> None:
    depthwise, norm = 49 * 32 + 32, 2 * 32
    expand, project = 32 * 128 + 128, 128 * 32 + 32
    assert_parameters(StarBlock(32), 2 * depthwise + 2 * norm + 2 * expand + project)


def test_weights_have_a_std_of_two_hundredths_and_biases_are_zero() -> None:
    block = StarBlock(64)
    for layer in block.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert not layer.bias.any()


def test_drop_path_is_the_last_layer_of_the_branch() -> None:
    *_, last = StarBlock(8, drop_path=0.3).branch
    assert isinstance(last, StochasticDepth)
    assert last.rate == 0.3


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        StarBlock(0)
    with pytest.raises(ValueError, match="expansion must be an integer of at least 1, got 0"):
        StarBlock(8, expansion=0)
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1"):
        StarBlock(8, drop_path=1)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got 0"):
        StarOperation(8, 0)
