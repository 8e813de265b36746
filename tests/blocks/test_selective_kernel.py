"""Selective kernels against the paper's equations and timm."""

import pytest
import timm.layers
import torch
from torch import nn

from cnnarch.blocks import KernelAttention, SelectiveKernel
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


def test_output_matches_equations_1_to_6_of_the_paper() -> None:
    block, x = SelectiveKernel(4, 6, squeeze_channels=3).eval(), torch.randn(2, 4, 7, 5)
    small, large = (path(x) for path in block.paths)
    s = (small + large).mean((2, 3))  # eqs. 1 and 2
    reduce, norm = block.attention.reduce.conv, block.attention.reduce.norm
    z = (s @ reduce.weight[:, :, 0, 0].T / (1 + norm.eps) ** 0.5).clamp(min=0)  # eq. 3
    first, second = (z @ block.attention.expand.weight[:, :, 0, 0].T).chunk(2, 1)
    a = (first.exp() / (first.exp() + second.exp()))[:, :, None, None]  # eq. 5
    assert_close(block(x), a * small + (1 - a) * large)  # eq. 6


def test_the_second_kernel_spans_five_pixels() -> None:
    """A pixel changes its surrounding 5x5 pixels in the second path; the map keeps its size."""
    block = SelectiveKernel(1, 1, squeeze_channels=1)
    for path, reach in zip(block.paths, (1, 2), strict=True):
        nn.init.ones_(path.conv.weight)
        x = torch.zeros(1, 1, 9, 9)
        x[0, 0, 4, 4] = 1
        rows = path.conv(x)[0, 0].any(1).nonzero().flatten().tolist()
        assert rows == [4 - reach, 4, 4 + reach]
        assert path.conv(x).shape == x.shape


@pytest.mark.parametrize(
    ("stride", "groups", "split"), [(1, 1, False), (2, 2, False), (2, 1, True)]
)
def test_outputs_match_timm(stride: int, groups: int, split: bool) -> None:
    x = torch.randn(4, 8, 9, 7)
    ours = SelectiveKernel(8, 6, stride, groups=groups, squeeze_channels=5, split=split)
    theirs = timm.layers.SelectiveKernel(
        8, 6, stride=stride, groups=groups, rd_channels=5, split_input=split
    )
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(theirs.eval()(x), ours.eval()(x), 1e-5)


def test_the_weights_of_the_paths_add_up_to_one() -> None:
    weights = KernelAttention(8, 4, paths=3)(torch.randn(2, 3, 8, 5, 5))
    assert weights.shape == (2, 3, 8, 1, 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 8, 1, 1))


def test_each_path_of_a_split_kernel_reads_its_half_of_the_channels() -> None:
    block = SelectiveKernel(4, 2, squeeze_channels=1, split=True).eval()
    x = torch.randn(1, 4, 5, 5)
    changed = torch.cat([x[:, :2], torch.randn(1, 2, 5, 5)], 1)
    kept = [path.register_forward_hook(lambda _m, _i, y: maps.append(y)) for path in block.paths]
    maps: list[torch.Tensor] = []
    block(x), block(changed)
    assert torch.equal(maps[0], maps[2])
    assert not torch.equal(maps[1], maps[3])
    for handle in kept:
        handle.remove()


def test_parameters_are_those_counted_by_hand() -> None:
    """Two 3x3 convolutions and the attention's two layers; three norms; no biases."""
    block = SelectiveKernel(8, 16, groups=4, squeeze_channels=5)
    paths = 2 * (3 * 3 * 8 * 16 // 4 + 2 * 16)
    assert_parameters(block, paths + 16 * 5 + 2 * 5 + 5 * 2 * 16)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="in_channels must be even to be split, got 3"):
        SelectiveKernel(3, 4, squeeze_channels=1, split=True)
    with pytest.raises(ValueError, match="squeeze_channels must be an integer of at least 1"):
        SelectiveKernel(4, 4, squeeze_channels=0)
    with pytest.raises(ValueError, match="paths must be an integer of at least 1, got 0"):
        KernelAttention(4, 2, 0)
