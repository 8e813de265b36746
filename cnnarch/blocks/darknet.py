"""Darknet's residual block, and its activation.

Source: Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv 1804.02767, Table 1.
"""

import math
from functools import partial

from torch import nn

from cnnarch.blocks._checks import check_integer, check_number
from cnnarch.blocks.conv import ConvNormAct, MakeAct
from cnnarch.blocks.residual import ResidualSum

__all__ = ["DarknetResidual"]


def leaky_relu(negative_slope: float) -> MakeAct:
    """Return a function that creates leaky ReLUs: y = x if x > 0, otherwise slope * x.

    Raises:
        ValueError: `negative_slope` is not a finite number of at least 0.
    """
    allowed = "a number of at least 0"
    check_number("negative_slope", negative_slope, allowed, lambda slope: 0 <= slope < math.inf)
    return partial(nn.LeakyReLU, negative_slope)


class DarknetResidual(ResidualSum):
    r"""$y = x + \phi(\mathrm{BN}(W_2\, \phi(\mathrm{BN}(W_1 x))))$ with a leaky ReLU $\phi$.

    The branch's children are `reduce`, a 1x1 convolution to fewer channels, and `conv`, a 3x3
    convolution back. Unlike in ResNet, the activation comes before the sum.

    Args:
        channels: number of input and output channels.
        hidden: number of channels between the convolutions; None means half of `channels`.
        act: creates the activation; None means a leaky ReLU with slope 0.1 below zero.

    Shape:
        (N, channels, H, W) -> (N, channels, H, W)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> DarknetResidual(64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        channels: int,
        hidden: int | None = None,
        *,
        act: MakeAct | None = None,
    ) -> None:
        check_integer("channels", channels, 1)
        hidden = max(channels // 2, 1) if hidden is None else hidden
        act = leaky_relu(0.1) if act is None else act
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(channels, hidden, 1, act=act)
        branch.conv = ConvNormAct(hidden, channels, 3, act=act)
        super().__init__(branch, channels, channels, act=nn.Identity)
