"""Convolution, normalization, activation: the basic unit of most networks.

Implemented here because `import cnnarch` must work without torchvision.
"""

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import nn

from cnnarch.blocks._checks import check_choice, check_integer, check_length
from cnnarch.blocks.initialization import he_normal_
from cnnarch.blocks.same_padding import SamePad2d

__all__ = ["ConvNormAct", "Padding"]

MakeNorm = Callable[[int], nn.Module]
"""Creates a normalization layer from its number of channels."""
MakeAct = Callable[[], nn.Module]
"""Creates an activation."""
Padding = Literal["symmetric", "same"]
"""How to pad a convolution, as described for `ConvNormAct`."""


class ConvNormAct(nn.Sequential):
    r"""$y = \phi(\mathrm{BN}(W * x))$ with the children `conv`, `norm` and `act`.

    A convolution followed by a norm has no bias because the norm's shift makes it redundant.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the square kernel, or its height and width, in pixels.
        stride: stride of the convolution, in pixels.
        groups: number of groups in the convolution.
        dilation: distance between the pixels that the kernel reads. A kernel of k pixels then
            spans dilation * (k - 1) + 1 pixels, which determines the padding.
        padding: "symmetric" pads each side by (span - 1) // 2 pixels. "same" pads as
            TensorFlow does: the output has ceil(H / stride) rows, and any extra pixel is added
            at the bottom and right. An integer pads each side by that many pixels.
        bias: whether the convolution has a bias; None adds one only if there is no norm.
        conv: the class of the convolution, such as `StandardizedConv2d`.
        norm: creates the normalization layer from its number of channels; None omits it.
        act: creates the activation; None omits it.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count, size or stride is not a positive integer, or `padding` is unknown or
            needs a square kernel.

    >>> import torch
    >>> ConvNormAct(3, 64, 7, 2, norm=nn.BatchNorm2d)(torch.zeros(1, 3, 224, 224)).shape
    torch.Size([1, 64, 112, 112])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        padding: Padding | int = "symmetric",
        bias: bool | None = None,
        conv: type[nn.Conv2d] = nn.Conv2d,
        norm: MakeNorm | None = nn.BatchNorm2d,
        act: MakeAct | None = nn.ReLU,
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        check_integer("stride", stride, 1)
        check_integer("dilation", dilation, 1)
        if isinstance(padding, str):
            check_choice("padding", padding, get_args(Padding))
        super().__init__()
        height, width = (dilation * (side - 1) + 1 for side in _height_and_width(kernel_size))
        pixels = (height - 1) // 2, (width - 1) // 2
        if isinstance(padding, int):
            pixels = padding, padding
        # For an odd kernel with stride 1, "same" and "symmetric" padding are identical.
        if padding == "same" and (stride > 1 or height % 2 == 0 or width % 2 == 0):
            if height != width:
                raise ValueError(f"padding 'same' needs a square kernel, got {kernel_size}")
            self.pad = SamePad2d(height, stride)
            pixels = 0, 0
        self.conv = conv(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=pixels,
            dilation=dilation,
            groups=groups,
            bias=norm is None if bias is None else bias,
        )
        he_normal_(self.conv)
        if norm is not None:
            self.norm = norm(out_channels)
        if act is not None:
            self.act = act()


def _height_and_width(kernel_size: int | tuple[int, int]) -> tuple[int, int]:
    sides = kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
    check_length("kernel_size", sides, 2)
    for side in sides:
        check_integer("kernel_size", side, 1)
    return sides


def conv_7x7(in_channels: int, channels: int, small_images: bool, **options: Any) -> ConvNormAct:
    """Return a stem convolution: 7x7 with stride 2, or 3x3 with stride 1 for small images.

    `options` are those of `ConvNormAct`.
    """
    kernel_size, stride = (3, 1) if small_images else (7, 2)
    return ConvNormAct(in_channels, channels, kernel_size, stride, **options)


def deep_stem(in_channels: int, widths: tuple[int, int, int], small_images: bool) -> nn.Sequential:
    """Return a stem of three 3x3 convolutions; the first has stride 2, or 1 for small images."""
    first, second, third = widths
    return nn.Sequential(
        ConvNormAct(in_channels, first, 3, 1 if small_images else 2),
        ConvNormAct(first, second, 3),
        ConvNormAct(second, third, 3),
    )


def remove_stride(block: nn.Module) -> None:
    """Give every convolution in a block stride 1, for networks for small images.

    The block keeps its layers and its kind of shortcut, so weights have the same meaning. A block
    built with stride 1 may lack a projection or add its input.
    """
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, SamePad2d):
            module.stride = 1
