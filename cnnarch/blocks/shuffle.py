"""ShuffleNet unit: grouped 1x1 convolutions, and a shuffle that mixes the groups.

Source: Zhang et al., "ShuffleNet", arXiv 1707.01083, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct

__all__ = ["ChannelShuffle", "ShuffleUnit"]


class ChannelShuffle(nn.Module):
    """Interleave the channels of all groups: the first of each group, the second of each, ...

    Args:
        groups: number of groups, which must divide the number of channels.

    Shape:
        (N, C, H, W) -> the same

    >>> x = torch.arange(6.0).view(1, 6, 1, 1)
    >>> ChannelShuffle(2)(x).flatten().tolist()
    [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
    """

    def __init__(self, groups: int) -> None:
        check_integer("groups", groups, 1)
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Transpose groups and channels within a group."""
        return _shuffle(x, self.groups)

    def extra_repr(self) -> str:
        """Return the number of groups."""
        return f"groups={self.groups}"


def _shuffle(x: Tensor, groups: int) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):  # keep the memory format
        pixels = x.permute(0, 2, 3, 1).unflatten(3, (groups, -1))  # type: ignore[no-untyped-call]
        return pixels.transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    x = x.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
    return x.transpose(1, 2).flatten(1, 2)


torch.fx.wrap("_shuffle")  # symbolic tracing cannot follow a branch on the memory format


class ShuffleUnit(nn.Module):
    r"""ShuffleNet unit (Fig. 2): $y = \mathrm{ReLU}(F(x) + x)$, or $[F(x);\ \mathrm{pool}(x)]$.

    F reduces the channels with a grouped 1x1 convolution, shuffles them, filters them with a 3x3
    depthwise convolution, and expands them with another grouped 1x1 convolution. With stride 2, the
    shortcut is a 3x3 average pool whose output is concatenated, followed by ReLU.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels, a multiple of 4 * groups.
        stride: 1 or 2. With stride 1, `out_channels` must equal `in_channels`.
        groups: number of groups in the 1x1 convolutions.
        first_groups: number of groups in the first 1x1 convolution, if it differs.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `groups` does not divide the numbers of channels, or the widths do not fit the
            stride.

    >>> ShuffleUnit(240, 480, 2, groups=3)(torch.zeros(1, 240, 28, 28)).shape
    torch.Size([1, 480, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        groups: int = 1,
        first_groups: int | None = None,
    ) -> None:
        check_integer("groups", groups, 1)
        first = groups if first_groups is None else first_groups
        check_shuffle_widths(in_channels, out_channels, stride)
        # The pooled input takes the place of some of the new channels.
        added = out_channels - in_channels if stride > 1 else out_channels
        hidden = out_channels // 4
        for count, divisor in ((in_channels, first), (hidden, first), (hidden, groups)):
            if count % divisor:
                raise ValueError(f"groups must divide {count} channels, got {divisor}")
        if added < groups or added % groups or out_channels % 4:
            raise ValueError(
                f"out_channels must be a multiple of 4, and groups must divide the {added} "
                f"channels of the last convolution, got {out_channels} and groups {groups}"
            )
        super().__init__()
        self.branch = nn.Sequential()
        self.branch.reduce = ConvNormAct(in_channels, hidden, 1, groups=first)
        self.branch.shuffle = ChannelShuffle(groups)
        self.branch.depthwise = ConvNormAct(hidden, hidden, 3, stride, groups=hidden, act=None)
        self.branch.expand = ConvNormAct(hidden, added, 1, groups=groups, act=None)
        self.concatenates = stride > 1
        self.shortcut = nn.AvgPool2d(3, stride, 1) if stride > 1 else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Add or concatenate the branch and the shortcut, then apply ReLU."""
        y, x = self.branch(x), self.shortcut(x)
        return self.act(torch.cat([y, x], dim=1) if self.concatenates else y + x)


def check_shuffle_widths(in_channels: int, out_channels: int, stride: int) -> None:
    check_integer("in_channels", in_channels, 1)
    check_integer("out_channels", out_channels, 1)
    check_integer("stride", stride, 1)
    if stride == 1 and in_channels != out_channels:
        raise ValueError(
            f"out_channels must equal the {in_channels} input channels with stride 1, "
            f"got {out_channels}"
        )
