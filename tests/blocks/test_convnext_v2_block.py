"""Global response normalization and the ConvNeXt V2 block against their equations and timm's."""

import pytest
import torch
from timm.layers.grn import GlobalResponseNorm
from timm.models.convnext import ConvNeXtBlock as TimmBlock
from torch import nn

from cnnarch.blocks import GRN, ConvNeXtV2Block
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order


def test_grn_by_hand() -> None:
    """The channels have the norms 5 and 15, and thus 0.5 and 1.5 times their mean."""
    grn = GRN(2)
    nn.init.constant_(grn.gamma, 2.0)
    nn.init.constant_(grn.beta, 1.0)
    x = torch.tensor([[3.0, 9.0], [4.0, 12.0]]).view(1, 2, 1, 2)  # two pixels
    expected = torch.tensor([[3 + 3 + 1, 27 + 9 + 1], [4 + 4 + 1, 36 + 12 + 1]]).view(1, 2, 1, 2)
    torch.testing.assert_close(grn(x), expected.float())


def test_grn_matches_timm() -> None:
    ours, theirs = GRN(6), GlobalResponseNorm(6)
    for parameter in ours.parameters():
        nn.init.normal_(parameter)
    copy_in_order(ours, theirs)
    x = torch.randn(2, 5, 7, 6)
    assert_close(ours(x), theirs(x))


def test_a_new_grn_returns_its_input_and_zeros_give_no_nan() -> None:
    x = torch.randn(2, 3, 3, 4)
    assert torch.equal(GRN(4)(x), x)
    zeros = torch.zeros(1, 3, 3, 4, requires_grad=True)
    GRN(4)(zeros).sum().backward()
    assert zeros.grad is not None
    assert zeros.grad.isfinite().all()


def test_the_block_matches_timm() -> None:
    ours = ConvNeXtV2Block(8)
    theirs = TimmBlock(8, use_grn=True, ls_init_value=None).eval()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, 0.2, 0.3)
    copy_in_order(ours, theirs)
    x = torch.randn(2, 8, 9, 6)
    assert_close(ours(x), theirs(x))


def test_a_block_of_96_channels_has_the_parameters_of_fig_5() -> None:
    """49 * 96 + 96 (depthwise), 2 * 96 (norm), 8 * 96 * 96 + 5 * 96 (MLP), 2 * 4 * 96 (GRN)."""
    assert_parameters(ConvNeXtV2Block(96), 4_704 + 96 + 192 + 73_728 + 480 + 768)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        ConvNeXtV2Block(0)
    with pytest.raises(ValueError, match=r"channels must be an integer .* got 2\.5"):
        GRN(2.5)  # type: ignore[arg-type]
