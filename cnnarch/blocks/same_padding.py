"""TensorFlow's "SAME" padding."""

import torch
from torch import Tensor, nn

__all__ = ["SamePad2d"]


class SamePad2d(nn.Module):
    """Zero padding after which a strided convolution returns ceil(H / stride) rows.

    This is TensorFlow's "SAME" padding, which adds any extra pixel at the bottom and right.
    Checkpoints trained with this padding require it. Source: TensorFlow's `tf.nn.convolution`.

    Shape:
        (N, C, H, W) -> (N, C, H + p, W + q) with 0 <= p, q < kernel_size
    """

    def __init__(self, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pad all four sides with zeros."""
        return _pad_same(x, self.kernel_size, self.stride)

    def extra_repr(self) -> str:
        """Return the kernel size and stride of the convolution that follows."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


def _pad_same(x: Tensor, kernel_size: int, stride: int) -> Tensor:
    sides: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):  # nn.functional.pad starts at the last dimension
        if isinstance(size, Tensor):  # in torch.jit.trace; sym_max accepts only numbers
            size = int(size)
        missing = (-(-size // stride) - 1) * stride + kernel_size - size
        total = torch.sym_max(missing, 0)  # max() would specialize a dynamic size
        sides += [total // 2, total - total // 2]  # type: ignore[list-item] # may be symbolic
    return nn.functional.pad(x, sides)


torch.fx.wrap("_pad_same")  # a leaf in symbolic tracing, because it does arithmetic on sizes
