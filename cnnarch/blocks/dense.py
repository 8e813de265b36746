"""Dense blocks: each layer takes the feature maps of all preceding layers as its input.

Source: Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.checkpointing import checkpointed, should_checkpoint
from cnnarch.blocks.linear_conv import linear_conv

__all__ = ["Dense", "DenseLayer", "Transition"]


class _NormActConv(nn.Sequential):
    """The paper's unit: BN, ReLU, convolution, dropout."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dropout: float
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        check_probability("dropout", dropout)
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.act = nn.ReLU()
        self.conv = linear_conv(in_channels, out_channels, kernel_size)
        self.dropout = nn.Dropout(dropout)  # kept even at rate 0, so the layout never changes


class DenseLayer(nn.Sequential):
    r"""$H_\ell([x_0, x_1, \dots])$: the new maps computed by one layer (eq. 2).

    `reduce` is BN, ReLU and a 1x1 convolution to `bottleneck * growth_rate` channels
    (DenseNet-B), absent if `bottleneck` is None. `conv` is BN, ReLU and a 3x3 convolution.

    Args:
        in_channels: total number of channels in all preceding maps.
        growth_rate: number of output channels, the paper's k.
        bottleneck: width of the 1x1 convolution as a multiple of the growth rate; None omits the
            convolution.
        dropout: probability of zeroing a value after each convolution, in [0, 1).

    Shape:
        (N, C_0, H, W), (N, C_1, H, W), ... -> (N, growth_rate, H, W); in_channels is sum C_i

    >>> DenseLayer(96, 32)(torch.zeros(1, 64, 8, 8), torch.zeros(1, 32, 8, 8)).shape
    torch.Size([1, 32, 8, 8])
    """

    def __init__(
        self, in_channels: int, growth_rate: int, *, bottleneck: int | None = 4, dropout: float = 0
    ) -> None:
        check_integer("growth_rate", growth_rate, 1)
        super().__init__()
        if bottleneck is not None:
            check_integer("bottleneck", bottleneck, 1)
            width = bottleneck * growth_rate
            self.reduce = _NormActConv(in_channels, width, 1, dropout)
            in_channels = width
        self.conv = _NormActConv(in_channels, growth_rate, 3, dropout)

    def forward(self, *maps: Tensor) -> Tensor:
        """Concatenate the maps and apply the convolutions."""
        x = torch.cat(maps, 1)
        for unit in self:
            x = unit(x)
        return x


class Dense(nn.ModuleList):
    r"""Dense block: $x_\ell = H_\ell([x_0, \dots, x_{\ell-1}])$; returns all $x_\ell$ concatenated.

    The children are `DenseLayer` modules. If `grad_checkpointing` is set, the backward pass
    recomputes each layer, including its concatenation. Training then stores only the maps that
    the layers add, so memory grows linearly with depth rather than quadratically.

    Args:
        in_channels: number of channels in the input, x_0.
        num_layers: number of layers.
        growth_rate: number of channels that each layer adds, the paper's k.
        bottleneck: width of each layer's 1x1 convolution as a multiple of the growth rate; None
            omits these convolutions.
        dropout: probability of zeroing a value after each convolution, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, in_channels + num_layers * growth_rate, H, W)

    Raises:
        ValueError: a count is not a positive integer, or `dropout` is out of range.

    >>> Dense(64, 3, 32)(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 160, 8, 8])
    """

    grad_checkpointing = False

    def __init__(
        self,
        in_channels: int,
        num_layers: int,
        growth_rate: int,
        *,
        bottleneck: int | None = 4,
        dropout: float = 0.0,
    ) -> None:
        check_integer("num_layers", num_layers, 1)
        super().__init__()
        for _ in range(num_layers):
            layer = DenseLayer(in_channels, growth_rate, bottleneck=bottleneck, dropout=dropout)
            self.append(layer)
            in_channels += growth_rate
        self.out_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Run each layer on all preceding maps, then concatenate all maps."""
        save_memory = should_checkpoint(self.grad_checkpointing)
        maps = [x]
        for layer in self:
            maps.append(checkpointed(layer, layer, *maps) if save_memory else layer(*maps))
        return torch.cat(maps, 1)


class Transition(_NormActConv):
    """Transition between dense blocks: BN, ReLU, 1x1 convolution and 2x2 average pool.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels; DenseNet-C uses fewer than `in_channels`.
        dropout: probability of zeroing a value after the convolution, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, floor(H / 2), floor(W / 2))

    >>> Transition(256, 128)(torch.zeros(1, 256, 8, 8)).shape
    torch.Size([1, 128, 4, 4])
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__(in_channels, out_channels, 1, dropout)
        self.pool = nn.AvgPool2d(2)
