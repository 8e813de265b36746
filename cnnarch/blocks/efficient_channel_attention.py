"""Efficient channel attention: each channel's gate depends on the channels next to it.

Source: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
arXiv 1910.03151, sec. 3.
"""

import math

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer

__all__ = ["ECA"]

GAMMA, B = 2, 1  # of eq. 12


class ECA(nn.Module):
    r"""$y = x \cdot \sigma(w * z)$, where $z$ is each channel's mean and $w$ has k weights.

    The layer `conv` is a 1D convolution along the channels without bias (eq. 9). By default, its
    kernel size grows with the number of channels (eq. 12):
    $k = \left|\frac{\log_2 C + 1}{2}\right|_\mathrm{odd}$, the nearest odd number. It is rounded
    up to the next odd number if the fraction's integer part is even, and it is at least 3.

    Args:
        channels: number of channels in the map, C.
        kernel_size: number of neighboring channels that determine a gate, an odd number; None
            computes it from `channels`.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a number is not a positive integer, or `kernel_size` is even.

    >>> import torch
    >>> ECA(256)(torch.zeros(1, 256, 7, 7)).shape
    torch.Size([1, 256, 7, 7])
    >>> ECA(256).conv
    Conv1d(1, 1, kernel_size=(5,), stride=(1,), padding=(2,), bias=False)
    """

    def __init__(self, channels: int, kernel_size: int | None = None) -> None:
        check_integer("channels", channels, 1)
        size = _kernel_size(channels) if kernel_size is None else kernel_size
        check_integer("kernel_size", size, 1)
        if size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {size}")
        super().__init__()
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel by its gate."""
        squeezed = x.mean((2, 3)).unsqueeze(1)  # (N, 1, channels)
        return x * self.gate(self.conv(squeezed)).squeeze(1)[:, :, None, None]


def _kernel_size(channels: int) -> int:
    size = int((math.log2(channels) + B) / GAMMA)
    return max(size + 1 - size % 2, 3)
