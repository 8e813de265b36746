"""Pooling that keeps its meaning at every input size and in every export."""

import torch
from torch import Tensor, nn

__all__ = ["AdaptiveAvgPool2d", "AlignedMaxPool2d"]


class AdaptiveAvgPool2d(nn.Module):
    """Average over bins that divide the map into a fixed number of rows and columns.

    The same bins as `torch.nn.AdaptiveAvgPool2d`, computed as two matrix products:
    $y = A_h x A_w^T$ with averaging matrices. That exports to ONNX with dynamic sizes, where
    the usual one freezes its kernel, and its backward is deterministic. A map that has the
    wanted size already passes unchanged.

    Args:
        output_size: rows and columns of the result.

    Shape:
        (N, C, H, W) -> (N, C, output_size, output_size)
    """

    def __init__(self, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size

    def forward(self, x: Tensor) -> Tensor:
        """Average each bin."""
        return _adaptive_average(x, self.output_size)

    def extra_repr(self) -> str:
        """Rows and columns of the result."""
        return f"{self.output_size}"


def _adaptive_average(x: Tensor, bins: int) -> Tensor:
    height, width = x.shape[-2:]
    # While exporting, dynamic sizes are no ints: comparing them would shut the wanted size out.
    if isinstance(height, int) and isinstance(width, int) and height == width == bins:
        return x
    rows, columns = (_averaging_matrix(x, size, bins) for size in (height, width))
    return rows @ x @ columns.mT


torch.fx.wrap("_adaptive_average")  # branches on the size, which symbolic tracing cannot


def _averaging_matrix(like: Tensor, size: int, bins: int) -> Tensor:
    """(bins, size): row i averages pixels floor(i * size / bins) to ceil((i + 1) * size / bins)."""
    bin_number = torch.arange(bins, device=like.device).unsqueeze(1)
    pixel = torch.arange(size, device=like.device)
    start = bin_number * size // bins
    stop = ((bin_number + 1) * size + bins - 1) // bins
    inside = ((pixel >= start) & (pixel < stop)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)


class AlignedMaxPool2d(nn.Sequential):
    """3x3 max-pool of stride 2 whose output is ceil(H / 2), as a padded convolution's is.

    Windows begin at the first pixel and may reach past the last, as in Caffe; children `pad`
    and `pool`. Unlike `ceil_mode` it agrees with a stride-2 convolution at odd sizes too, so
    the two can be concatenated.

    Shape:
        (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))
    """

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ConstantPad2d((0, 2, 0, 2), -torch.inf)
        self.pool = nn.MaxPool2d(3, 2)
