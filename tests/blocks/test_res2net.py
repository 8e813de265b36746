"""Res2Net's block against its paper (Gao et al., 2019) and timm."""

import pytest
import torch
from timm.models.res2net import Bottle2neck
from torch import nn

from cnnarch.blocks import MultiScaleConv, Res2NetBottleneck
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms


def test_each_convolution_reads_its_subset_and_the_previous_output() -> None:
    """Eq. 1 of the paper, with the subset that has no convolution in the last place."""
    layer = MultiScaleConv(12, 4)
    x = torch.randn(2, 12, 5, 6)
    randomize_norms(layer, x)
    x1, x2, x3, x4 = x.split(3, 1)
    k1, k2, k3 = layer.convs
    y1 = k1(x1)
    y2 = k2(x2 + y1)
    y3 = k3(x3 + y2)
    assert_close(layer(x), torch.cat([y1, y2, y3, x4], 1))


def test_independent_convolutions_read_only_their_subset() -> None:
    layer = MultiScaleConv(6, 3, 2, hierarchical=False)
    x = torch.randn(2, 6, 5, 6)
    randomize_norms(layer, x)
    x1, x2, x3 = x.split(2, 1)
    k1, k2 = layer.convs
    padded = nn.functional.pad(x3, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2)
    average = padded.sum((-2, -1)) / 9  # padding counts as zeros
    assert_close(layer(x), torch.cat([k1(x1), k2(x2), average], 1))


def test_the_outputs_see_1_3_5_and_7_pixels() -> None:
    """The number of rows of the input that influence the center row of each subset's output."""
    layer = MultiScaleConv(4, 4).eval()
    for conv in layer.convs:
        nn.init.constant_(conv.conv.weight, 1.0)
    x = torch.ones(1, 4, 15, 15, requires_grad=True)
    seen = []
    for output in layer(x)[0, :, 7, 7]:
        (gradient,) = torch.autograd.grad(output, x, retain_graph=True)
        seen.append(int((gradient != 0).any(-1).sum(-1).max()))
    assert seen == [3, 5, 7, 1]


def theirs(in_channels: int, stride: int, scale: int, width: int, groups: int) -> nn.Module:
    downsample = None
    if stride != 1 or in_channels != 64:
        conv = nn.Conv2d(in_channels, 64, 1, stride, bias=False)
        downsample = nn.Sequential(conv, nn.BatchNorm2d(64))
    return Bottle2neck(
        in_channels,
        16,
        stride,
        downsample,
        cardinality=groups,
        base_width=4 * width,  # the width at 64 channels
        scale=scale,
        norm_layer=nn.BatchNorm2d,
    )


def in_their_order(ours: nn.Module) -> list[torch.Tensor]:
    """Return our tensors in timm's order: all convolutions of a block before all of its norms."""
    layers = [ours.branch.reduce, *ours.branch.conv.convs, ours.branch.expand]
    reduce, *convs, expand = [[layer.conv, layer.norm] for layer in layers]
    modules = [*reduce, *(conv for conv, _ in convs), *(norm for _, norm in convs), *expand]
    modules += ours.shortcut.children()
    return [tensor for module in modules for tensor in module.state_dict().values()]


@pytest.mark.parametrize(
    ("in_channels", "stride", "scale", "width", "groups"),
    [(64, 1, 4, 3, 1), (32, 1, 4, 3, 1), (64, 2, 3, 2, 1), (64, 1, 2, 5, 1), (64, 2, 4, 2, 4)],
)
def test_outputs_match_timm(
    in_channels: int, stride: int, scale: int, width: int, groups: int
) -> None:
    ours = Res2NetBottleneck(in_channels, 16, stride, scale=scale, group_width=width, groups=groups)
    x = torch.randn(2, in_channels, 9, 8)
    randomize_norms(ours, x)
    other = theirs(in_channels, stride, scale, width, groups).eval()
    names = other.state_dict()
    other.load_state_dict(dict(zip(names, in_their_order(ours), strict=True)))
    assert_close(ours(x), other(x))


def test_a_block_has_the_parameters_counted_by_hand() -> None:
    """The 1x1 have 256 * 104 weights each, and three 3x3 have 26 * 26 * 9 weights."""
    weights = 2 * 256 * 104 + 3 * 26 * 26 * 9
    norms = 2 * (104 + 3 * 26 + 256)
    assert_parameters(Res2NetBottleneck(256, 64, scale=4, group_width=26), weights + norms)


def test_wrong_numbers_are_rejected() -> None:
    with pytest.raises(ValueError, match="scale must be an integer of at least 2, got 1"):
        MultiScaleConv(8, 1)
    with pytest.raises(ValueError, match="channels must be a multiple of scale 3, got 8"):
        MultiScaleConv(8, 3)
    with pytest.raises(ValueError, match="stride must be 1 in a hierarchical layer, got 2"):
        MultiScaleConv(8, 4, 2)
    with pytest.raises(ValueError, match="scale must be an integer of at least 2, got 1"):
        Res2NetBottleneck(64, 16, scale=1, group_width=8)
    with pytest.raises(ValueError, match="group_width must be an integer of at least 1, got 0"):
        Res2NetBottleneck(64, 16, scale=4, group_width=0)
