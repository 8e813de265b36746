"""Hierarchical deep aggregation: a tree of blocks whose nodes merge the maps of many depths.

Source: Yu et al., "Deep Layer Aggregation", arXiv 1707.06484, sec. 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import checkpointed, should_checkpoint
from cnnarch.blocks.conv import ConvNormAct

__all__ = ["AggregationNode", "AggregationTree"]

MakeBlock = Callable[[int, int, int], nn.Module]
"""Creates a block from input channels, output channels and stride."""


class AggregationNode(nn.Module):
    r"""$N(x_1, \dots, x_n) = \mathrm{ReLU}(\mathrm{BN}(W * [x_1, \dots, x_n]))$, a 1x1 convolution.

    With `residual`, $x_1$ is added before the ReLU.

    Args:
        in_channels: total number of channels in all inputs.
        out_channels: number of output channels.
        residual: whether to add the first input, which then has `out_channels` channels.

    Shape:
        (N, C_1, H, W), (N, C_2, H, W), ... -> (N, out_channels, H, W); in_channels is sum C_i

    >>> AggregationNode(96, 64)(torch.zeros(1, 64, 8, 8), torch.zeros(1, 32, 8, 8)).shape
    torch.Size([1, 64, 8, 8])
    """

    def __init__(self, in_channels: int, out_channels: int, *, residual: bool = False) -> None:
        super().__init__()
        self.residual = residual
        self.merge = ConvNormAct(in_channels, out_channels, 1, act=None)
        self.act = nn.ReLU()

    def forward(self, *maps: Tensor) -> Tensor:
        """Merge the maps."""
        merged = self.merge(torch.cat(maps, 1))
        return self.act(merged + maps[0] if self.residual else merged)


class AggregationTree(nn.Module):
    r"""Tree $T_n$ of $2^n$ blocks, merged by a node after every second block.

    The input passes through the subtrees $T_{n-1}, \dots, T_1$ and then through two blocks. The
    node merges the outputs of both blocks and of all subtrees, so the last layer is only a few
    nodes away from every block of the tree.

    If `grad_checkpointing` is set, the backward pass recomputes each block.

    Args:
        levels: depth n of the tree.
        block: creates a block from input channels, output channels and stride.
        in_channels: number of input channels.
        out_channels: number of output channels, also of each block.
        stride: stride of the first block.
        merge_input: whether the node also merges the tree's input. With a stride, it is
            max-pooled; the last window may be truncated.
        residual: whether nodes add their first input, the output of the last block.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `levels` or a count is not a positive integer.

    >>> from cnnarch.blocks import Residual
    >>> AggregationTree(2, Residual, 32, 64, 2)(torch.zeros(1, 32, 8, 8)).shape
    torch.Size([1, 64, 4, 4])
    """

    grad_checkpointing = False

    def __init__(
        self,
        levels: int,
        block: MakeBlock,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        merge_input: bool = False,
        residual: bool = False,
    ) -> None:
        check_integer("levels", levels, 1)
        super().__init__()
        merged = (levels + 1) * out_channels
        self.pool: nn.Module | None = None
        if merge_input:
            merged += in_channels
            self.pool = max_pool(stride)
        self.subtrees = nn.ModuleList()
        for level in range(levels - 1, 0, -1):
            tree = AggregationTree(
                level, block, in_channels, out_channels, stride, residual=residual
            )
            self.subtrees.append(tree)
            in_channels, stride = out_channels, 1
        self.first = block(in_channels, out_channels, stride)
        self.second = block(out_channels, out_channels, 1)
        self.node = AggregationNode(merged, out_channels, residual=residual)

    def forward(self, x: Tensor) -> Tensor:
        """Run the subtrees and the two blocks, then merge their outputs."""
        maps = [] if self.pool is None else [self.pool(x)]
        for tree in self.subtrees:
            x = tree(x)
            maps.append(x)
        first = self._run(self.first, x)
        return self.node(self._run(self.second, first), first, *maps)

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        save_memory = should_checkpoint(self.grad_checkpointing)
        return checkpointed(block, block, x) if save_memory else block(x)


def max_pool(stride: int) -> nn.Module:
    """Return a max-pool whose kernel is as large as its stride; the identity for stride 1.

    The last window may be truncated, so the output has the size of a padded 3x3 convolution's.
    """
    return nn.MaxPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
