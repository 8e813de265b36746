"""CBAM: attention over channels, then over positions.

Source: Woo et al., "CBAM: Convolutional Block Attention Module", arXiv 1807.06521, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.initialization import he_fan_in_

__all__ = ["CBAM", "ChannelAttention", "SpatialAttention"]


class ChannelAttention(nn.Module):
    r"""$y = x \cdot \sigma(\mathrm{MLP}(\mathrm{avg}(x)) + \mathrm{MLP}(\mathrm{max}(x)))$ (eq. 2).

    One MLP, the layers `reduce` and `expand`, processes each channel's mean and maximum. The layers
    have biases, as in the authors' code.

    Args:
        channels: number of channels in the map.
        squeeze_channels: width between the two layers: channels / 16 in the paper.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a width is not a positive integer.

    >>> ChannelAttention(64, 4)(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        check_integer("channels", channels, 1)
        check_integer("squeeze_channels", squeeze_channels, 1)
        super().__init__()
        self.reduce = he_fan_in_(nn.Linear(channels, squeeze_channels))
        self.act = nn.ReLU()
        self.expand = he_fan_in_(nn.Linear(squeeze_channels, channels))
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel by its gate."""
        squeezed = torch.stack([x.mean((2, 3)), x.amax((2, 3))], 1)  # (N, 2, channels)
        scores = self.expand(self.act(self.reduce(squeezed))).sum(1)
        return x * self.gate(scores)[:, :, None, None]


class SpatialAttention(nn.Module):
    r"""$y = x \cdot \sigma(f([\mathrm{max}(x); \mathrm{avg}(x)]))$, where f is a 7x7 convolution.

    The maximum and the mean are over channels (eq. 3). BatchNorm follows the convolution, and the
    maximum comes first, as in the authors' code.

    Args:
        kernel_size: side length of the convolution's kernel, in pixels; odd.

    Shape:
        (N, C, H, W) -> the same

    Raises:
        ValueError: `kernel_size` is not a positive odd integer.

    >>> SpatialAttention()(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(self, kernel_size: int = 7) -> None:
        check_integer("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__()
        self.score = ConvNormAct(2, 1, kernel_size, act=None)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each position by its gate."""
        squeezed = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * self.gate(self.score(squeezed))


class CBAM(nn.Sequential):
    """`ChannelAttention`, then `SpatialAttention`; the children are `channel` and `spatial`.

    Args:
        channels: number of channels in the map.
        squeeze_channels: width of the channel attention's hidden layer: channels / 16 in the paper.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a width is not a positive integer.

    >>> CBAM(64, 4)(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(self, channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, squeeze_channels)
        self.spatial = SpatialAttention()
