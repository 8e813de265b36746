"""Pooling against PyTorch's layers, Caffe's sizes and strided convolutions."""

import pytest
import torch
from torch import nn

from cnnarch.blocks import AdaptiveAvgPool2d, AlignedMaxPool2d, ZeroPaddedMaxPool2d
from cnnarch.testing import assert_close


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 6), (7, 7), (13, 8), (14, 20), (31, 7)])
@pytest.mark.parametrize("bins", [1, 4, 6, 7])
def test_bins_match_pytorch(size: tuple[int, int], bins: int) -> None:
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(AdaptiveAvgPool2d(bins)(x), nn.AdaptiveAvgPool2d(bins)(x))


def test_a_map_that_already_has_the_output_size_is_returned_unchanged() -> None:
    x = torch.randn(1, 2, 6, 6)
    assert AdaptiveAvgPool2d(6)(x) is x


def test_the_gradient_matches_pytorch() -> None:
    x = torch.randn(1, 2, 9, 11, dtype=torch.float64, requires_grad=True)
    (ours,) = torch.autograd.grad(AdaptiveAvgPool2d(6)(x).square().sum(), x)
    (theirs,) = torch.autograd.grad(nn.AdaptiveAvgPool2d(6)(x).square().sum(), x)
    torch.testing.assert_close(ours, theirs)


def test_exports_with_dynamic_rows_and_columns() -> None:
    dynamic = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    traced = torch.randn(1, 2, 14, 15)
    program = torch.export.export(AdaptiveAvgPool2d(6), (traced,), dynamic_shapes=(dynamic,))
    x = torch.randn(1, 2, 21, 10)
    assert_close(program.module()(x), nn.AdaptiveAvgPool2d(6)(x))


def test_the_aligned_pool_matches_caffe_at_even_sizes() -> None:
    x = torch.randn(2, 3, 28, 14)
    assert torch.equal(AlignedMaxPool2d()(x), nn.MaxPool2d(3, 2, ceil_mode=True)(x))


@pytest.mark.parametrize("size", range(1, 12))
def test_the_aligned_pool_has_the_output_size_of_a_strided_convolution(size: int) -> None:
    x = torch.randn(1, 1, size, size)
    convolved = nn.Conv2d(1, 1, 3, 2, padding=1)(x)
    assert AlignedMaxPool2d()(x).shape == convolved.shape
    assert AlignedMaxPool2d()(x).isfinite().all()


def test_zero_padding_replaces_negative_maxima_at_the_borders() -> None:
    x = torch.randn(2, 3, 9, 8)
    pool = ZeroPaddedMaxPool2d(3, 2, 1)
    expected = nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 2)
    assert torch.equal(pool(x), expected)
    assert torch.equal(pool(x.abs()), nn.MaxPool2d(3, 2, 1)(x.abs()))
    assert ZeroPaddedMaxPool2d(3, 1, (0, 1))(x).shape == (2, 3, 7, 8)
