"""Convolution, normalisation, activation: the unit that most networks are built of."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_choice, check_integer
from cnnarch.blocks.initialization import he_normal_

__all__ = ["ConvNormAct", "Padding", "SamePad2d"]

Padding = Literal["symmetric", "same"]


class ConvNormAct(nn.Sequential):
    r"""$y = \phi(\mathrm{BN}(W * x))$: children `conv`, `norm` and `act`.

    The convolution has no bias where a norm follows, whose shift makes it redundant.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the square kernel, in pixels.
        stride: step of the kernel, in pixels.
        groups: number of groups that channels are convolved in.
        padding: "symmetric" pads (kernel_size - 1) // 2 pixels on every side; "same" pads as
            TensorFlow does, so that the output is ceil(H / stride) with any odd pixel at the
            right and bottom; a number pads that many pixels on every side.
        bias: whether the convolution has a bias; None means only without a norm.
        norm: makes the normalisation from its channels; None leaves it out.
        act: makes the activation; None leaves it out.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count that is not a positive integer, or no such padding.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        padding: Padding | int = "symmetric",
        bias: bool | None = None,
        norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        if isinstance(padding, str):
            check_choice("padding", padding, get_args(Padding))
        super().__init__()
        pixels = (kernel_size - 1) // 2 if isinstance(padding, str) else padding
        # At stride 1 the two ways to pad an odd kernel are one.
        if padding == "same" and (stride > 1 or kernel_size % 2 == 0):
            self.pad = SamePad2d(kernel_size, stride)
            pixels = 0
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=pixels,
            groups=groups,
            bias=norm is None if bias is None else bias,
        )
        he_normal_(self.conv)
        if norm is not None:
            self.norm = norm(out_channels)
        if act is not None:
            self.act = act()


class SamePad2d(nn.Module):
    """Zero padding that makes a strided convolution give ceil(H / stride) rows.

    TensorFlow's "SAME": an odd pixel goes to the right and to the bottom, so a checkpoint
    trained with it needs it. Source: TensorFlow's `tf.nn.convolution`.

    Shape:
        (N, C, H, W) -> (N, C, H + p, W + q) with 0 <= p, q < kernel_size
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad the four sides with zeros."""
        return _pad_same(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Kernel and stride of the convolution that follows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


def _pad_same(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    sides: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):  # nn.functional.pad begins with the last dimension
        if isinstance(size, Tensor):  # in torch.jit.trace; sym_max takes numbers
            size = int(size)
        missing = (-(-size // stride) - 1) * stride + kernel_size - size
        total = torch.sym_max(missing, 0)  # plain max() would fix a dynamic size
        sides += [total // 2, total - total // 2]  # type: ignore[list-item] # may be symbolic
    return nn.functional.pad(x, sides)


torch.fx.wrap("_pad_same")  # sizes are numbers here, which symbolic tracing must not look into
