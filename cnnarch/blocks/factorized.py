"""Inception blocks with factorized kernels, as in Inception v3, v4 and Inception-ResNet.

Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv
1512.00567, sec. 3 and Fig. 5 to 7.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from cnnarch.blocks._checks import check_choice, check_integer
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.inception import Branches

__all__ = ["ConvRow", "FactorizedInception", "PoolRow", "SplitRow"]

inception_norm = partial(nn.BatchNorm2d, eps=1e-3)


class ConvRow(NamedTuple):
    """A convolution of a branch, followed by BatchNorm (eps 1e-3) and ReLU.

    Args:
        filters: number of output channels.
        kernel: height and width of the kernel; an integer for a square kernel.
        stride: stride of the convolution.
        valid: whether the convolution is not padded, marked "V" in the papers' figures.
    """

    filters: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    valid: bool = False


class SplitRow(NamedTuple):
    """A 1x3 and a 3x1 convolution side by side, whose outputs are concatenated.

    Args:
        filters: number of output channels of each convolution.
    """

    filters: int


class PoolRow(NamedTuple):
    """A 3x3 pool: "avg" is padded and has stride 1; "max" is not padded.

    Args:
        kind: "avg" or "max".
        stride: stride of the max-pool; an average pool ignores it.
    """

    kind: Literal["avg", "max"]
    stride: int = 2


BranchRows = Sequence[ConvRow | SplitRow | PoolRow]


def conv_bn_relu(in_channels: int, row: ConvRow) -> ConvNormAct:
    """Return the layers of a `ConvRow`."""
    padding: Padding | int = 0 if row.valid else "symmetric"
    return ConvNormAct(
        in_channels, row.filters, row.kernel, row.stride, padding=padding, norm=inception_norm
    )


class FactorizedInception(Branches):
    """Concatenated branches, each a sequence of rows: convolutions, pools and splits.

    Large kernels are factorized into small or asymmetric ones, for example 7x7 into 1x7 and 7x1.
    A block whose last convolutions have stride 2 ("reduction") also contains a max-pool branch.
    The children are `branch1`, `branch2`, ...; their children are `conv1`, `conv2`, ..., `split`
    and `pool`.

    Args:
        in_channels: number of input channels.
        branches: rows of each branch, with at most one pool and one split.
        count_include_pad: whether average pools count the padding as zeros.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H', W'), where H' and W' depend on the rows

    Raises:
        ValueError: a count, size or stride is not a positive integer, the kind of a pool is
            unknown, there is no branch, or a branch is empty or has two pools or splits.

    >>> import torch
    >>> rows = ((ConvRow(64),), (ConvRow(48), ConvRow(64, (1, 7))), (PoolRow("avg"), ConvRow(32)))
    >>> FactorizedInception(192, rows)(torch.zeros(1, 192, 35, 35)).shape
    torch.Size([1, 160, 35, 35])
    """

    def __init__(
        self,
        in_channels: int,
        branches: Sequence[BranchRows],
        *,
        count_include_pad: bool = True,
    ) -> None:
        check_integer("number of branches", len(branches), 1)
        super().__init__()
        self.out_channels = 0
        for i, rows in enumerate(branches, start=1):
            branch, channels = _branch(in_channels, rows, count_include_pad)
            self.add_module(f"branch{i}", branch)
            self.out_channels += channels


def _branch(
    in_channels: int, rows: BranchRows, count_include_pad: bool
) -> tuple[nn.Sequential, int]:
    """Return the layers of a branch and its number of output channels."""
    check_integer("number of rows in a branch", len(rows), 1)
    branch, channels, convolutions = nn.Sequential(), in_channels, 0
    for row in rows:
        layer: nn.Module
        if isinstance(row, ConvRow):
            convolutions += 1
            name, layer = f"conv{convolutions}", conv_bn_relu(channels, row)
            channels = row.filters
        elif isinstance(row, SplitRow):
            name, layer = "split", _split(channels, row.filters)
            channels = 2 * row.filters
        else:
            name, layer = "pool", _pool(row, count_include_pad)
        if hasattr(branch, name):
            raise ValueError(f"a branch must have at most one {name}, got {rows}")
        branch.add_module(name, layer)
    return branch, channels


def _pool(row: PoolRow, count_include_pad: bool) -> nn.Module:
    check_choice("kind of a pool", row.kind, ("avg", "max"))
    check_integer("stride of a pool", row.stride, 1)
    if row.kind == "max":
        return nn.MaxPool2d(3, row.stride)
    return nn.AvgPool2d(3, 1, 1, count_include_pad=count_include_pad)


def _split(in_channels: int, filters: int) -> Branches:
    split = Branches()
    split.conv1x3 = conv_bn_relu(in_channels, ConvRow(filters, (1, 3)))
    split.conv3x1 = conv_bn_relu(in_channels, ConvRow(filters, (3, 1)))
    return split
