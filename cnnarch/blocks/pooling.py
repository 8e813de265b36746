"""Pooling layers that behave the same at all input sizes and after export."""

import torch
from torch import Tensor, nn

__all__ = ["AdaptiveAvgPool2d", "AlignedMaxPool2d", "ZeroPaddedMaxPool2d"]


class AdaptiveAvgPool2d(nn.Module):
    """Average over bins that divide the map into a fixed number of rows and columns.

    The bins are those of `torch.nn.AdaptiveAvgPool2d`, but the average is computed as two matrix
    products, $y = A_h x A_w^T$ with averaging matrices. The backward pass is therefore
    deterministic, and the layer can be exported to ONNX with dynamic sizes, whereas PyTorch's
    layer is exported with a constant kernel.
    A map that already has the requested size is returned unchanged.

    Args:
        output_size: number of rows and of columns in the output.

    Shape:
        (N, C, H, W) -> (N, C, output_size, output_size)
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Return the average of each bin."""
        return _adaptive_average(x, self.output_size)

    def extra_repr(self) -> str:
        """Return the output size."""
        return f"{self.output_size}"


def _adaptive_average(x: Tensor, bins: int) -> Tensor:
    height, width = x.shape[-2:]
    # During export, dynamic sizes are not ints. Comparing them would rule out the size `bins`.
    if isinstance(height, int) and isinstance(width, int) and height == width == bins:
        return x
    rows, columns = (_averaging_matrix(x, size, bins) for size in (height, width))
    return rows @ x @ columns.transpose(-1, -2)


torch.fx.wrap("_adaptive_average")  # symbolic tracing cannot follow a branch on the size


def _averaging_matrix(like: Tensor, size: int, bins: int) -> Tensor:
    """Return a (bins, size) matrix whose row i averages the pixels of bin i."""
    bin_number = torch.arange(bins, device=like.device).unsqueeze(1)
    pixel = torch.arange(size, device=like.device)
    start = bin_number * size // bins
    stop = ((bin_number + 1) * size + bins - 1) // bins
    inside = ((pixel >= start) & (pixel < stop)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


class AlignedMaxPool2d(nn.Sequential):
    """3x3 max-pool with stride 2 and output size ceil(H / 2), like a padded convolution.

    Windows start at the first pixel and may extend past the last, as in Caffe. Unlike with
    `ceil_mode`, the output has the same size as that of a stride-2 convolution even if the input
    size is odd, so the two can be concatenated. The children are `pad` and `pool`.

    Shape:
        (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ConstantPad2d((0, 2, 0, 2), -torch.inf)
        self.pool = nn.MaxPool2d(3, 2)


class ZeroPaddedMaxPool2d(nn.MaxPool2d):
    """Max-pool whose padding consists of zeros, instead of values that are never the maximum.

    The two differ if values are negative, for example directly after a convolution. The arguments
    are those of `nn.MaxPool2d`: kernel size, stride and padding, in pixels.

    Shape:
        (N, C, H, W) -> (N, C, H / stride, W / stride) if the padding keeps the size

    >>> ZeroPaddedMaxPool2d(3, 2, 1)(-torch.ones(1, 1, 2, 2))
    tensor([[[[0.]]]])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad with zeros and return the maximum of each window."""
        padding = self.padding if isinstance(self.padding, tuple) else (self.padding, self.padding)
        height, width = padding
        padded = nn.functional.pad(x, (width, width, height, height))
        return nn.functional.max_pool2d(padded, self.kernel_size, self.stride)


def caffe_max_pool(kernel_size: int = 3) -> nn.MaxPool2d:
    """Return Caffe's max-pool with stride 2: no padding, and the last window may be truncated."""
    return nn.MaxPool2d(kernel_size, 2, ceil_mode=True)
