"""Aggregation trees against the definition in the paper (Yu et al., 2017)."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from cnnarch.blocks import AggregationNode, AggregationTree, ConvNormAct
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def block(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    return ConvNormAct(in_channels, out_channels, 3, stride)


def node(module: AggregationNode, maps: list[Tensor], residual: bool) -> Tensor:
    norm = module.merge.norm
    statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    merged = conv2d(torch.cat(maps, 1), module.merge.conv.weight)
    merged = batch_norm(merged, *statistics, training=False, eps=1e-5)
    return (merged + maps[0] if residual else merged).clamp(min=0)


def tree(
    x: Tensor,
    levels: int,
    blocks: list[nn.Module],
    nodes: list[nn.Module],
    maps: list[Tensor],
    residual: bool,
) -> Tensor:
    """Compute a tree by halves: a tree of depth n - 1, and one that also merges its output.

    `blocks` and `nodes` are those of the tree in the order of their use.
    """
    if levels == 1:
        first = blocks[0](x)
        return node(nodes[0], [blocks[1](first), first, *maps], residual)
    left = tree(x, levels - 1, blocks, nodes, [], residual)
    used_blocks, used_nodes = 2 ** (levels - 1), 2 ** (levels - 2)
    rest = blocks[used_blocks:], nodes[used_nodes:]
    return tree(left, levels - 1, *rest, [*maps, left], residual)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("levels", [1, 2, 3])
@torch.no_grad()
def test_a_tree_of_n_levels_merges_2_to_the_n_blocks(levels: int, residual: bool) -> None:
    module = AggregationTree(levels, block, 3, 6, 2, merge_input=True, residual=residual)
    x = torch.randn(2, 3, 16, 12)
    randomize_norms(module, x)
    blocks = [m for m in module.modules() if isinstance(m, ConvNormAct) and hasattr(m, "act")]
    nodes = [m for m in module.modules() if isinstance(m, AggregationNode)]
    assert (len(blocks), len(nodes)) == (2**levels, 2 ** (levels - 1))
    expected = tree(x, levels, blocks, nodes, [max_pool2d(x, 2)], residual)
    assert expected.shape == (2, 6, 8, 6)
    assert_close(module(x), expected)


def test_only_the_last_node_merges_the_input_and_the_subtrees() -> None:
    """Two maps of 6 channels in each node, and in the last ones those of earlier subtrees."""
    module = AggregationTree(3, block, 3, 6, merge_input=True)
    inputs = [m.merge.conv.in_channels for m in module.modules() if isinstance(m, AggregationNode)]
    assert inputs == [12, 18, 12, 12 + 2 * 6 + 3]


@pytest.mark.parametrize("side", [1, 7, 8])
def test_an_input_of_any_size_can_be_merged(side: int) -> None:
    module = AggregationTree(1, block, 3, 6, 2, merge_input=True).eval()
    halved = (side + 1) // 2
    assert module(torch.randn(1, 3, side, side)).shape == (1, 6, halved, halved)


@pytest.mark.parametrize("levels", [0, 1.5])
def test_a_number_of_levels_out_of_range_is_rejected(levels: int) -> None:
    with pytest.raises(ValueError, match=f"levels must be an integer of at least 1, got {levels}"):
        AggregationTree(levels, block, 3, 6)
