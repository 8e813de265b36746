"""Depthwise separable convolution: filter each channel separately, then mix the channels.

Source: Howard et al., "MobileNets", arXiv 1704.04861, sec. 3.1 and Fig. 3.
"""

from collections.abc import Callable

from torch import nn

from cnnarch.blocks.conv import ConvNormAct, MakeNorm, Padding

__all__ = ["DepthwiseSeparable"]


class DepthwiseSeparable(nn.Sequential):
    r"""$y = \phi(\mathrm{BN}(W_{1\times1} * \phi(\mathrm{BN}(W_{dw} * x))))$.

    `depthwise` has one kernel per channel, and `pointwise` is a 1x1 convolution. Each is followed
    by a norm and an activation. The block needs $1 / N + 1 / k^2$ times the multiply-adds of a
    full convolution with N output channels and k x k kernels (sec. 3.1).

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the depthwise kernel, in pixels.
        stride: stride of the depthwise convolution, in pixels.
        padding: "symmetric" or TensorFlow's "same"; see `ConvNormAct`.
        norm: creates a normalization layer from its number of channels.
        act: creates an activation; None omits both.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> DepthwiseSeparable(8, 16, 3, stride=2)(torch.zeros(1, 8, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        padding: Padding = "symmetric",
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        super().__init__()
        self.depthwise = ConvNormAct(
            in_channels,
            in_channels,
            kernel_size,
            stride,
            groups=in_channels,
            padding=padding,
            norm=norm,
            act=act,
        )
        self.pointwise = ConvNormAct(in_channels, out_channels, 1, norm=norm, act=act)
