"""Dual path blocks: a residual path that is added to, and a dense path that grows.

Source: Chen et al., "Dual Path Networks", arXiv 1707.01629, sec. 4.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import MakeNorm
from cnnarch.blocks.linear_conv import linear_conv

__all__ = ["DualPath"]


class _PreActConv(nn.Sequential):
    """BN, ReLU and a convolution without bias."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: MakeNorm,
    ) -> None:
        super().__init__()
        self.norm = norm(in_channels)
        self.act = nn.ReLU()
        self.conv = linear_conv(in_channels, out_channels, kernel_size, stride, groups=groups)


class DualPath(nn.Module):
    r"""$y = [r + F_r(x), d, F_d(x)]$ with $x = [r, d]$: add to one path and append to the other.

    The first `channels` channels of the map are the residual path r, the others are the dense
    path d. The branch F is pre-activated: its children `reduce`, `conv` and `expand` are BN, ReLU
    and a 1x1, 3x3 and 1x1 convolution. The last one computes the values that are added to r and
    the `growth_rate` channels that are appended to d.

    The first block of a stage has a projection: `shortcut`, also BN, ReLU and a 1x1 convolution,
    computes r and the first 2 * `growth_rate` channels of d.

    Args:
        in_channels: number of input channels.
        channels: number of channels in the residual path.
        stride: stride of the block; requires `project` unless it is 1.
        growth_rate: number of channels that the block appends to the dense path.
        groups: number of groups in the 3x3 convolution.
        group_width: number of channels per group.
        project: whether `shortcut` is a projection. Otherwise it is the identity, and the input
            must have more than `channels` channels.
        norm: creates a normalization layer from its number of channels.

    Shape:
        (N, in_channels, H, W) -> (N, in_channels + growth_rate, H, W), or
        (N, channels + 3 * growth_rate, H / stride, W / stride) with `project`

    Raises:
        ValueError: a count is not a positive integer, or a block that needs a projection has none.

    >>> block = DualPath(96, 64, growth_rate=16, groups=32, group_width=4)
    >>> block(torch.zeros(1, 96, 8, 8)).shape
    torch.Size([1, 112, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        growth_rate: int,
        groups: int = 1,
        group_width: int,
        project: bool = False,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        counts = {"in_channels": in_channels, "channels": channels, "stride": stride}
        counts |= {"growth_rate": growth_rate, "groups": groups, "group_width": group_width}
        for name, count in counts.items():
            check_integer(name, count, 1)
        if not project and (stride != 1 or in_channels <= channels):
            raise ValueError(
                f"without a projection, stride must be 1 and in_channels above {channels}, "
                f"got stride {stride} and in_channels {in_channels}"
            )
        super().__init__()
        width = groups * group_width
        kept = channels + 2 * growth_rate if project else in_channels
        self.out_channels = kept + growth_rate
        self.kept_sizes = channels, kept - channels
        self.new_sizes = channels, growth_rate
        self.shortcut: nn.Module = nn.Identity()
        if project:
            self.shortcut = _PreActConv(in_channels, kept, 1, stride, norm=norm)
        self.branch = nn.Sequential()
        self.branch.reduce = _PreActConv(in_channels, width, 1, norm=norm)
        self.branch.conv = _PreActConv(width, width, 3, stride, groups=groups, norm=norm)
        self.branch.expand = _PreActConv(width, channels + growth_rate, 1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Add to the residual path and append to the dense path."""
        residual, dense = self.shortcut(x).split(self.kept_sizes, 1)
        added, appended = self.branch(x).split(self.new_sizes, 1)
        return torch.cat([residual + added, dense, appended], 1)
