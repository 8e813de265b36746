"""ShuffleNet V2 unit: half of the channels pass unchanged, and a shuffle mixes both halves.

Source: Ma et al., "ShuffleNet V2", arXiv 1807.11164, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.shuffle import ChannelShuffle, check_shuffle_widths

__all__ = ["ShuffleUnitV2"]


class ShuffleUnitV2(nn.Module):
    r"""ShuffleNet V2 unit (Fig. 3c and d): $y = \mathrm{shuffle}([x_1;\ F(x_2)])$.

    With stride 1, the input is split into two halves, of which one is left unchanged. F is a 1x1, a
    3x3 depthwise and another 1x1 convolution. With stride 2, both halves are computed from the
    whole input, the first by a depthwise and a 1x1 convolution.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels, which must be even.
        stride: 1 or 2. With stride 1, `out_channels` must equal `in_channels`.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `out_channels` is odd, or the widths do not fit the stride.

    >>> ShuffleUnitV2(24, 116, 2)(torch.zeros(1, 24, 56, 56)).shape
    torch.Size([1, 116, 28, 28])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        check_shuffle_widths(in_channels, out_channels, stride)
        if out_channels % 2:
            raise ValueError(f"out_channels must be even, got {out_channels}")
        super().__init__()
        half = out_channels // 2
        self.splits = stride == 1
        self.shortcut = nn.Identity() if self.splits else nn.Sequential()
        if not self.splits:
            groups = in_channels
            self.shortcut.depthwise = ConvNormAct(
                in_channels, in_channels, 3, stride, groups=groups, act=None
            )
            self.shortcut.pointwise = ConvNormAct(in_channels, half, 1)
        self.branch = nn.Sequential()
        self.branch.reduce = ConvNormAct(half if self.splits else in_channels, half, 1)
        self.branch.depthwise = ConvNormAct(half, half, 3, stride, groups=half, act=None)
        self.branch.expand = ConvNormAct(half, half, 1)
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate both halves and shuffle their channels."""
        left, right = x.chunk(2, dim=1) if self.splits else (x, x)
        return self.shuffle(torch.cat([self.shortcut(left), self.branch(right)], dim=1))
