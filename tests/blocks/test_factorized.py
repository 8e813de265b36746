"""Factorized and residual Inception blocks against functional reimplementations."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, batch_norm, conv2d, max_pool2d

from cnnarch.blocks import (
    ConvNormAct,
    ConvRow,
    FactorizedInception,
    PoolRow,
    ResidualInception,
    SplitRow,
)
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms

AVG = PoolRow("avg")


def apply(layer: ConvNormAct, x: torch.Tensor) -> torch.Tensor:
    conv, norm = layer.conv, layer.norm
    y = conv2d(x, conv.weight, None, conv.stride, conv.padding)
    args = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return batch_norm(y, *args, eps=1e-3).relu()


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_branches_run_their_rows_in_order(count_include_pad: bool) -> None:
    rows = (
        (ConvRow(4), ConvRow(5, (1, 7)), ConvRow(6, (7, 1))),
        (ConvRow(3), SplitRow(2)),
        (PoolRow("avg"), ConvRow(4)),
    )
    block = FactorizedInception(8, rows, count_include_pad=count_include_pad)
    x = torch.randn(2, 8, 9, 8)
    randomize_norms(block, x)
    first, second, third = block.children()
    a = apply(first.conv3, apply(first.conv2, apply(first.conv1, x)))
    b = apply(second.conv1, x)
    b = torch.cat([apply(second.split.conv1x3, b), apply(second.split.conv3x1, b)], 1)
    c = apply(third.conv1, avg_pool2d(x, 3, 1, 1, count_include_pad=count_include_pad))
    assert block.out_channels == 6 + 4 + 4
    with torch.no_grad():
        assert_close(block(x), torch.cat([a, b, c], 1))
    assert [c.conv.padding for c in first] == [(0, 0), (0, 3), (3, 0)]
    assert [c.conv.kernel_size for c in second.split.children()] == [(1, 3), (3, 1)]


def test_a_reduction_joins_unpadded_convolutions_and_a_max_pool() -> None:
    rows = ((ConvRow(4, 3, 2, valid=True),), (PoolRow("max"),))
    block = FactorizedInception(8, rows)
    x = torch.randn(2, 8, 9, 8)
    randomize_norms(block, x)
    expected = torch.cat([apply(block.branch1.conv1, x), max_pool2d(x, 3, 2)], 1)
    with torch.no_grad():
        assert_close(block(x), expected)
    assert expected.shape == (2, 12, 4, 3)


@pytest.mark.parametrize("act", [True, False])
def test_the_residual_is_scaled_and_projected_with_a_bias(act: bool) -> None:
    block = ResidualInception(8, ((ConvRow(3),), (ConvRow(2), ConvRow(4, 3))), scale=0.2, act=act)
    nn.init.normal_(block.project.bias)
    x = torch.randn(2, 8, 5, 6)
    randomize_norms(block, x)
    first, second = block.branches.children()
    y = torch.cat([apply(first.conv1, x), apply(second.conv2, apply(second.conv1, x))], 1)
    y = x + 0.2 * conv2d(y, block.project.weight, block.project.bias)
    with torch.no_grad():
        assert_close(block(x), y.relu() if act else y, 1e-6)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got 0"):
        FactorizedInception(8, ((ConvRow(0),),))
    for branches, message in (
        ((), "number of branches must be an integer of at least 1, got 0"),
        (((),), "number of rows in a branch must be an integer of at least 1, got 0"),
        (((PoolRow("min"),),), "kind of a pool must be one of 'avg', 'max', got 'min'"),
        (((PoolRow("max", 0),),), "stride of a pool must be an integer of at least 1, got 0"),
        (((AVG, ConvRow(4), AVG),), "a branch must have at most one pool, got "),
        (((SplitRow(4), SplitRow(4)),), "a branch must have at most one split, got "),
        (((SplitRow(0),),), "out_channels must be an integer of at least 1, got 0"),
        (((ConvRow(4, 0),),), "kernel_size must be an integer of at least 1, got 0"),
        (((ConvRow(4, (1, 7, 3)),),), r"kernel_size must have 2 entries, got \(1, 7, 3\)"),
        (((ConvRow(4, 3, 0),),), "stride must be an integer of at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            FactorizedInception(8, branches)
        with pytest.raises(ValueError, match=message):
            ResidualInception(8, branches, scale=0.1)
    with pytest.raises(ValueError, match="scale must be a number above 0, got 0"):
        ResidualInception(8, ((ConvRow(4),),), scale=0)
    with pytest.raises(ValueError, match=r"padding 'same' needs a square kernel, got \(1, 7\)"):
        ConvNormAct(4, 4, (1, 7), 2, padding="same")
