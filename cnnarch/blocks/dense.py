"""Dense blocks: every layer reads the maps of all layers before it.

Source: Huang et al., "Densely Connected Convolutional Networks", arXiv 1608.06993, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.checkpointing import checkpointed, is_worthwhile
from cnnarch.blocks.initialization import he_normal_

__all__ = ["Dense", "DenseLayer", "Transition"]


class _NormActConv(nn.Sequential):
    """BN, ReLU, convolution, dropout, in this order: the paper's unit."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, dropout: float
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        check_probability("dropout", dropout)
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False
        )
        he_normal_(self.conv)
        self.dropout = nn.Dropout(dropout)  # at rate 0 too: the layout must not depend on it


class DenseLayer(nn.Sequential):
    r"""$H_\ell([x_0, x_1, \dots])$: what one layer adds to the maps before it (eq. 2).

    Child `reduce` is BN, ReLU and a 1x1 convolution to `bottleneck` times the growth rate
    (DenseNet-B), absent if `bottleneck` is None; `conv` is BN, ReLU and a 3x3 convolution.

    Args:
        in_channels: channels of all maps before it together.
        growth_rate: channels of its output, the paper's k.
        bottleneck: width of the 1x1 convolution over the growth rate; None leaves it out.
        dropout: probability of zeroing a value after each convolution, in [0, 1).

    Shape:
        (N, C_0, H, W), (N, C_1, H, W), ... -> (N, growth_rate, H, W); in_channels is sum C_i
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
        """Concatenate the maps and convolve."""
        x = torch.cat(maps, 1)
        for unit in self:
            x = unit(x)
        return x


class Dense(nn.ModuleList):
    r"""Dense block: $x_\ell = H_\ell([x_0, \dots, x_{\ell-1}])$, all of them its output.

    Its children are the `DenseLayer`s. With `grad_checkpointing` set each layer is computed
    again in the backward pass, concatenation and all, so that training keeps only what the
    layers add: memory that grows with the depth, not with its square.

    Args:
        in_channels: channels of the input, x_0.
        num_layers: number of layers.
        growth_rate: channels that each layer adds, the paper's k.
        bottleneck: width of each layer's 1x1 convolution over the growth rate; None leaves
            them out.
        dropout: probability of zeroing a value after each convolution, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, in_channels + num_layers * growth_rate, H, W)

    Raises:
        ValueError: a count that is not a positive integer, or `dropout` out of range.

    >>> Dense(64, 6, 32)(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 256, 8, 8])
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
        """Let each layer read all maps before it, and concatenate them all."""
        save_memory = is_worthwhile(self.grad_checkpointing)
        maps = [x]
        for layer in self:
            maps.append(checkpointed(layer, layer, *maps) if save_memory else layer(*maps))
        return torch.cat(maps, 1)


class Transition(_NormActConv):
    """Between dense blocks: BN, ReLU, 1x1 convolution and average pool of 2x2, stride 2.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output; fewer than `in_channels` is the compression of
            DenseNet-C.
        dropout: probability of zeroing a value after the convolution, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, floor(H / 2), floor(W / 2))
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__(in_channels, out_channels, 1, dropout)
        self.pool = nn.AvgPool2d(2)
