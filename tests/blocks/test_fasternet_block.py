"""The partial convolution and the FasterNet block against timm's and manual calculations."""

import pytest
import torch
from timm.models.fasternet import MLPBlock
from torch import nn

from cnnarch.blocks import FasterNetBlock, PConv
from cnnarch.testing import assert_close, assert_macs, assert_parameters
from tests.oracles.in_order import randomize_norms


def test_a_quarter_of_the_channels_is_convolved_and_the_others_pass() -> None:
    layer, x = PConv(8), torch.randn(2, 8, 6, 5)
    y = layer(x)
    assert torch.equal(y[:, 2:], x[:, 2:])
    assert torch.equal(y[:, :2], layer.conv(x[:, :2]))


def test_a_quarter_of_the_channels_needs_a_sixteenth_of_the_multiply_adds() -> None:
    conv = 9 * 64 * 64 * 14 * 14
    assert_macs(PConv(64), conv // 16, (64, 14, 14))
    assert_macs(PConv(64, 2), conv // 4, (64, 14, 14))


def test_the_block_matches_timm() -> None:
    ours = FasterNetBlock(8)
    theirs = MLPBlock(8, 4, 2.0, 0.0, 0.0).eval()
    x = torch.randn(4, 8, 9, 6)
    randomize_norms(ours, x)
    names = {"branch.partial.conv": "spatial_mixing.partial_conv3", "branch.expand": "mlp.0"}
    names |= {"branch.norm": "mlp.1", "branch.project": "mlp.3"}
    for mine, name in names.items():
        theirs.get_submodule(name).load_state_dict(ours.get_submodule(mine).state_dict())
    assert_close(ours(x), theirs(x))


def test_a_block_has_one_norm_one_activation_and_no_bias_in_convolutions() -> None:
    """9 * 16 * 16 (3x3), 2 * 64 * 128 (1x1), 2 * 128 (norm)."""
    block = FasterNetBlock(64, act=nn.GELU)
    assert_parameters(block, 2_304 + 16_384 + 256)
    layers = [type(m) for m in block.branch]
    assert layers[:5] == [PConv, nn.Conv2d, nn.BatchNorm2d, nn.GELU, nn.Conv2d]


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="ratio must be an integer of at least 1, got 0"):
        PConv(8, 0)
    with pytest.raises(ValueError, match="channels must be an integer of at least 4, got 3"):
        FasterNetBlock(3)
