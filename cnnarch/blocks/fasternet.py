"""FasterNet block: a 3x3 convolution of a quarter of the channels, then two 1x1 convolutions.

Source: Chen et al., "Run, Don't Walk: Chasing Higher FLOPS for Faster Neural Networks",
arXiv 2303.03667, sec. 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["FasterNetBlock", "PConv"]


class PConv(nn.Module):
    """Partial convolution: a 3x3 convolution of the first channels; the others pass unchanged.

    A regular convolution of a quarter of the channels needs 1/16 of the multiply-adds and, unlike a
    depthwise convolution, few memory accesses for each of them. It has no bias.

    Args:
        channels: number of channels of the input and the output.
        ratio: number of channels divided by the number of convolved channels, at least 1.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `ratio` is not a positive integer, or is larger than `channels`.

    >>> PConv(64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(self, channels: int, ratio: int = 4) -> None:
        check_integer("ratio", ratio, 1)
        check_integer("channels", channels, ratio)
        super().__init__()
        self.convolved = channels // ratio
        self.conv = nn.Conv2d(self.convolved, self.convolved, 3, padding=1, bias=False)
        normal_(self.conv, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the first channels."""
        first, rest = torch.split(x, [self.convolved, x.shape[1] - self.convolved], 1)
        return torch.cat((self.conv(first), rest), 1)


class FasterNetBlock(nn.Module):
    r"""$y = x + W_2 * \phi(\mathrm{BN}(W_1 * \mathrm{PConv}(x)))$.

    The two 1x1 convolutions combine the convolved channels with the others. Between them, there are
    twice as many channels and the block's only norm and activation. Convolutions have no biases,
    and their weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels of the input and the output, at least 4.
        act: creates an activation.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `channels` or `drop_path` is out of range.

    >>> FasterNetBlock(64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        channels: int,
        *,
        act: Callable[[], nn.Module] = nn.ReLU,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.branch = nn.Sequential()
        self.branch.partial = PConv(channels)
        self.branch.expand = normal_(nn.Conv2d(channels, 2 * channels, 1, bias=False), 0.02)
        self.branch.norm = nn.BatchNorm2d(2 * channels)
        self.branch.act = act()
        self.branch.project = normal_(nn.Conv2d(2 * channels, channels, 1, bias=False), 0.02)
        self.branch.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input."""
        return x + self.branch(x)
