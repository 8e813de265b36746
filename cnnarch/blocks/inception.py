"""Inception block, which runs convolutions of several sizes in parallel, and the auxiliary head.

Source: Szegedy et al., "Going Deeper with Convolutions", arXiv 1409.4842, sec. 4 and 5.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks.conv import ConvNormAct, MakeNorm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import he_fan_in_
from cnnarch.blocks.pooling import AdaptiveAvgPool2d

__all__ = ["AuxiliaryHead", "Branches", "Inception"]


class Branches(nn.Module):
    """y = [b_1(x); b_2(x); ...]: run all children on the input and concatenate their channels.

    Shape:
        (N, C, H, W) -> (N, C_1 + C_2 + ..., H', W'); all branches must return the same H' and W'

    >>> branches = Branches()
    >>> branches.small, branches.large = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)
    >>> branches(torch.zeros(1, 8, 9, 9)).shape
    torch.Size([1, 8, 9, 9])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branch outputs in registration order."""
        return torch.cat([branch(x) for branch in self.children()], dim=1)


def inception_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    norm: MakeNorm | None = None,
) -> ConvNormAct:
    """Return a GoogLeNet convolution with ReLU.

    The paper does not specify the initialization. Weights are drawn from N(0, 2 / fan_in), which
    is He initialization for the forward pass (arXiv 1502.01852, eq. 10). Reduction layers have far
    fewer outputs than inputs, so He initialization for the backward pass would produce initial
    logits in the hundreds.
    """
    layer = ConvNormAct(in_channels, out_channels, kernel_size, stride, norm=norm)
    he_fan_in_(layer.conv)
    return layer


class Inception(Branches):
    r"""$y = [W_1 x;\ W_3 R_3 x;\ W_5 R_5 x;\ W_p\,\mathrm{pool}(x)]$, ReLU after each convolution.

    This is Fig. 2b of the paper. 1x1 convolutions reduce the number of channels before the
    expensive 3x3 and 5x5 convolutions (`reduce`) and after the 3x3 max-pool with stride 1. Weights
    are drawn from N(0, 2 / fan_in).

    Args:
        in_channels: number of input channels.
        c1: filters in the 1x1 convolution ("#1x1" in Table 1).
        c3: filters in the reduction and in the 3x3 convolution ("#3x3 reduce", "#3x3").
        c5: filters in the reduction and in the 5x5 convolution ("#5x5 reduce", "#5x5").
        pool: filters in the 1x1 convolution after the pool ("pool proj").
        norm: creates the normalization layer after each convolution, given its channels.
            None uses biases instead, as in the paper.
        kernel_size5: side length of the 5x5 kernel; torchvision's checkpoint uses 3.

    Shape:
        (N, in_channels, H, W) -> (N, c1 + c3[1] + c5[1] + pool, H, W)

    Raises:
        ValueError: a count is not a positive integer.

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
    """Classifier on an intermediate map; its loss adds to the lower layers' gradients in training.

    It consists of a 5x5 average pool with stride 3, a 1x1 convolution to 128 channels, a linear
    layer with 1024 units, 70% dropout and the classifier (sec. 5). The map is first
    average-pooled to the paper's 14x14. Maps of 224-pixel images already have this size.

    Args:
        in_channels: number of channels in the map.
        num_classes: number of logits; 0 returns the classifier's input.
        pool: a different pool with 4x4 output; torchvision's networks pool to 4x4 in one step.
        norm: creates the normalization layer after the 1x1 convolution, given its channels.
        dropout: probability of zeroing an input value of the classifier, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or (N, 1024) if num_classes is 0

    Raises:
        ValueError: in_channels, num_classes or dropout is out of range.

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
        hidden = nn.Sequential(he_fan_in_(nn.Linear(4 * 4 * 128, 1024)), nn.ReLU())
        super().__init__(1024, num_classes, pool=to_4x4, hidden=hidden, dropout=dropout)
