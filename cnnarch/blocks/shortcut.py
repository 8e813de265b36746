"""Shortcuts for residual blocks that change the shape of their input.

Sources: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, sec. 3.3; for
`pooled_projection`, He et al., "Bag of Tricks for Image Classification with Convolutional Neural
Networks", arXiv 1812.01187, sec. 4.1; for `pooled_zero_pad`, Han et al., "Deep Pyramidal Residual
Networks", arXiv 1610.02915.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct

__all__ = [
    "MakeShortcut",
    "ZeroPadShortcut",
    "linear_projection",
    "pooled_projection",
    "pooled_zero_pad",
    "projection",
]

MakeShortcut = Callable[[int, int, int], nn.Module]
"""Creates a shortcut from input channels, output channels and stride."""


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return a 1x1 convolution with BatchNorm, option B in the paper."""
    return ConvNormAct(in_channels, out_channels, 1, stride, act=None)


def linear_projection(
    in_channels: int, out_channels: int, stride: int, *, conv: type[nn.Conv2d] = nn.Conv2d
) -> nn.Module:
    """Return a 1x1 convolution without BatchNorm, the shortcut of pre-activation networks."""
    return ConvNormAct(
        in_channels, out_channels, 1, stride, bias=False, conv=conv, norm=None, act=None
    )


def pooled_projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return an average pool, if strided, and a 1x1 convolution with BatchNorm, as in ResNet-D.

    The pool reads every pixel, whereas a 1x1 convolution with stride 2 skips three of four. If the
    number of rows or columns is odd, the last windows average only the pixels inside the map. The
    children are `pool` and `project`.
    """
    shortcut = _pool(stride)
    shortcut.project = projection(in_channels, out_channels, 1)
    return shortcut


def pooled_zero_pad(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return an average pool, if strided, and new channels of zeros, as in PyramidNet.

    The pool is that of `pooled_projection`. The children are `pool` and `pad`.
    """
    shortcut = _pool(stride)
    shortcut.pad = ZeroPadShortcut(in_channels, out_channels, 1)
    return shortcut


def _pool(stride: int) -> nn.Sequential:
    shortcut = nn.Sequential()
    if stride > 1:
        shortcut.pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    return shortcut


class ZeroPadShortcut(nn.Module):
    """Option A in the paper: keep every `stride`-th pixel and fill the new channels with zeros.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `out_channels` is less than `in_channels`.

    >>> import torch
    >>> ZeroPadShortcut(16, 32, 2)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 32, 16, 16])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        check_integer("out_channels", out_channels, in_channels)
        super().__init__()
        self.new_channels = out_channels - in_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Subsample the map and append zero channels."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(kept, (0, 0, 0, 0, 0, self.new_channels))

    def extra_repr(self) -> str:
        """Return the number of new channels and the stride."""
        return f"new_channels={self.new_channels}, stride={self.stride}"
