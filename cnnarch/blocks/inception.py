"""Inception block: convolutions of several sizes side by side, and GoogLeNet's auxiliary head.

Source: Szegedy et al., "Going Deeper with Convolutions", arXiv 1409.4842, sec. 4 and 5.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.pooling import AdaptiveAvgPool2d

__all__ = ["AuxiliaryHead", "Branches", "Inception"]

MakeNorm = Callable[[int], nn.Module]


class Branches(nn.Module):
    """y = [b_1(x); b_2(x); ...]: every child reads the input, channels are concatenated.

    Shape:
        (N, C, H, W) -> (N, C_1 + C_2 + ..., H', W'), where all branches agree on H' and W'
    """

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate what the branches make of the input, in the order of registration."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def inception_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    norm: MakeNorm | None = None,
) -> ConvNormAct:
    """GoogLeNet's convolution, with ReLU.

    The paper does not say how weights are initialised. They are drawn from N(0, 2 / fan_in),
    He's rule for the forward pass (arXiv 1502.01852, eq. 10): reductions have far fewer outputs
    than inputs, and by his rule for the backward pass logits begin in the hundreds.
    """
    layer = ConvNormAct(in_channels, out_channels, kernel_size, stride, norm=norm)
    _he_forward_(layer.conv)
    return layer


def _he_forward_(layer: nn.Conv2d | nn.Linear) -> None:
    normal_(layer, math.sqrt(2 / layer.weight[0].numel()))


class Inception(Branches):
    r"""$y = [W_1 x;\ W_3 R_3 x;\ W_5 R_5 x;\ W_p\,\mathrm{pool}(x)]$, ReLU after each convolution.

    Fig. 2b of the paper. 1x1 convolutions (`reduce`) make the map thin before the costly 3x3 and
    5x5 ones, and thin out the 3x3 max-pool of stride 1. Weights are drawn from N(0, 2 / fan_in).

    Args:
        in_channels: channels of the input.
        c1: filters of the 1x1 convolution ("#1x1" in Table 1).
        c3: filters of the reduction and of the 3x3 convolution ("#3x3 reduce", "#3x3").
        c5: filters of the reduction and of the 5x5 convolution ("#5x5 reduce", "#5x5").
        pool: filters of the 1x1 convolution after the pool ("pool proj").
        norm: makes a normalisation after each convolution, from its channels; None, as in the
            paper, gives the convolutions biases instead.
        kernel_size5: side of the 5x5 kernel; torchvision's checkpoint has 3.

    Shape:
        (N, in_channels, H, W) -> (N, c1 + c3[1] + c5[1] + pool, H, W)

    Raises:
        ValueError: a count that is not a positive integer.

    >>> Inception(192, 64, (96, 128), (16, 32), 32)(torch.zeros(1, 192, 28, 28)).shape
    torch.Size([1, 256, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        c1: int,
        c3: tuple[int, int],
        c5: tuple[int, int],
        pool: int,
        *,
        norm: MakeNorm | None = None,
        kernel_size5: int = 5,
    ) -> None:
        super().__init__()
        self.branch1x1 = inception_conv(in_channels, c1, 1, norm=norm)
        self.branch3x3 = nn.Sequential()
        self.branch3x3.reduce = inception_conv(in_channels, c3[0], 1, norm=norm)
        self.branch3x3.conv = inception_conv(c3[0], c3[1], 3, norm=norm)
        self.branch5x5 = nn.Sequential()
        self.branch5x5.reduce = inception_conv(in_channels, c5[0], 1, norm=norm)
        self.branch5x5.conv = inception_conv(c5[0], c5[1], kernel_size5, norm=norm)
        self.branch_pool = nn.Sequential()
        self.branch_pool.pool = nn.MaxPool2d(3, 1, 1)
        self.branch_pool.conv = inception_conv(in_channels, pool, 1, norm=norm)
        self.out_channels = c1 + c3[1] + c5[1] + pool


class AuxiliaryHead(ClassifierHead):
    """Classifier on a map half-way, which sends gradients into the lower layers in training.

    5x5 average pool of stride 3, 1x1 convolution to 128 channels, a linear layer of 1024 units,
    70 % dropout, classifier (sec. 5). The pool sees the map averaged to the paper's 14x14
    first, which at 224 pixels changes nothing and makes any other size work.

    Args:
        in_channels: channels of the map.
        num_classes: width of the logits; 0 returns what the classifier reads.
        pool: another pool to 4x4; torchvision's networks average to 4x4 at once.
        norm: makes a normalisation after the 1x1 convolution, from its channels.
        dropout: probability of zeroing an input of the classifier, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or (N, 1024) if num_classes is 0

    Raises:
        ValueError: in_channels, num_classes or dropout out of range.

    >>> AuxiliaryHead(512, 10)(torch.zeros(1, 512, 14, 14)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        pool: nn.Module | None = None,
        norm: MakeNorm | None = None,
        dropout: float = 0.7,
    ) -> None:
        if pool is None:
            pool = nn.Sequential(AdaptiveAvgPool2d(14), nn.AvgPool2d(5, 3))
        to_4x4 = nn.Sequential()
        to_4x4.average = pool
        to_4x4.reduce = inception_conv(in_channels, 128, 1, norm=norm)
        linear = nn.Linear(4 * 4 * 128, 1024)
        _he_forward_(linear)
        hidden = nn.Sequential(linear, nn.ReLU())
        super().__init__(1024, num_classes, pool=to_4x4, hidden=hidden, dropout=dropout)
