"""Pyramidal residual blocks: the width grows in every block, and the shortcut has no parameters.

Source: Han et al., "Deep Pyramidal Residual Networks", arXiv 1610.02915, sec. 3 and 4.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.linear_conv import linear_conv
from cnnarch.blocks.shortcut import MakeShortcut, pooled_zero_pad

__all__ = ["PyramidBottleneck", "PyramidResidual", "PyramidSum"]


class PyramidSum(nn.Module):
    r"""$y = F(x) + s(x)$, where F starts and ends with BN, and no activation follows the sum.

    The shortcut s is the identity if the shape is unchanged.

    Args:
        branch: any module, the paper's F.
        in_channels: number of input channels.
        out_channels: number of channels in the branch's output; at least `in_channels`.
        stride: total stride of the branch.
        make_shortcut: creates the shortcut from input channels, output channels and stride if the
            shape changes.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `out_channels` is less than `in_channels`.

    >>> import torch
    >>> PyramidSum(nn.Conv2d(16, 20, 3, 1, 1), 16, 20)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 20, 8, 8])
    """

    def __init__(
        self,
        branch: nn.Module,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        make_shortcut: MakeShortcut = pooled_zero_pad,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = make_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the outputs of the branch and the shortcut."""
        return self.branch(x) + self.shortcut(x)


class PyramidResidual(PyramidSum):
    """Pyramidal block with two 3x3 convolutions, `branch.conv1` and `branch.conv2` (Fig. 6d).

    The branch is BN, 3x3, BN, ReLU, 3x3, BN: compared with a pre-activation block, the first ReLU
    is removed, and there is a norm before the sum.

    Args:
        in_channels: number of input channels.
        channels: number of channels in both convolutions and in the output; at least `in_channels`.
        stride: stride of the first convolution and of the shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `channels` is not an integer or is less than `in_channels`.

    >>> import torch
    >>> PyramidResidual(16, 20)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 20, 32, 32])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        check_integer("channels", channels, in_channels)
        branch = nn.Sequential()
        branch.norm1 = nn.BatchNorm2d(in_channels)
        branch.conv1 = linear_conv(in_channels, channels, 3, stride)
        branch.norm2, branch.act = nn.BatchNorm2d(channels), nn.ReLU()
        branch.conv2 = linear_conv(channels, channels, 3)
        branch.norm3 = nn.BatchNorm2d(channels)
        super().__init__(branch, in_channels, channels, stride)


class PyramidBottleneck(PyramidSum):
    """Pyramidal bottleneck: 1x1 to `channels`, 3x3, 1x1 to four times `channels`.

    The branch's convolutions are `reduce`, `conv` and `expand`, each between two norms. ReLU
    precedes only the last two.

    Args:
        in_channels: number of input channels.
        channels: width of the bottleneck; the output is four times as wide.
        stride: stride of the 3x3 convolution and of the shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `channels` is not a positive integer, or the output has fewer channels than the
            input.

    >>> import torch
    >>> PyramidBottleneck(64, 20)(torch.zeros(1, 64, 32, 32)).shape
    torch.Size([1, 80, 32, 32])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        check_integer("channels", channels, 1)
        branch = nn.Sequential()
        branch.norm1 = nn.BatchNorm2d(in_channels)
        branch.reduce = linear_conv(in_channels, channels, 1)
        branch.norm2, branch.act1 = nn.BatchNorm2d(channels), nn.ReLU()
        branch.conv = linear_conv(channels, channels, 3, stride)
        branch.norm3, branch.act2 = nn.BatchNorm2d(channels), nn.ReLU()
        branch.expand = linear_conv(channels, 4 * channels, 1)
        branch.norm4 = nn.BatchNorm2d(4 * channels)
        super().__init__(branch, in_channels, 4 * channels, stride)
