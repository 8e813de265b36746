"""The star operation: multiply two linear projections of the same input, elementwise.

Source: Ma et al., "Rewrite the Stars", arXiv 2403.19967, sec. 3 and 4.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["StarBlock", "StarOperation"]


class StarOperation(nn.Module):
    r"""$y = \mathrm{ReLU6}(W_1 * x) \odot (W_2 * x)$, where $W_1$ and $W_2$ are 1x1 convolutions.

    Each output is a sum over the products of all pairs of input channels, so the operation computes
    quadratic features without a wider layer. Both convolutions have biases and no norm.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> StarOperation(32, 128)(torch.zeros(1, 32, 14, 14)).shape
    torch.Size([1, 128, 14, 14])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        super().__init__()
        self.activated = normal_(nn.Conv2d(in_channels, out_channels, 1), 0.02)
        self.act = nn.ReLU6()
        self.linear = normal_(nn.Conv2d(in_channels, out_channels, 1), 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the two projections."""
        return self.act(self.activated(x)) * self.linear(x)


class StarBlock(nn.Module):
    r"""$y = x + D_2 * \mathrm{BN}(W_3 * \mathrm{star}(\mathrm{BN}(D_1 * x)))$.

    $D_1$ and $D_2$ are 7x7 depthwise convolutions, and $W_3$ is a 1x1 convolution. All convolutions
    have biases. Weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels of the input and the output.
        expansion: channels inside the star operation per channel of the input.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a count is not a positive integer, or `drop_path` is out of range.

    >>> import torch
    >>> StarBlock(32)(torch.zeros(1, 32, 14, 14)).shape
    torch.Size([1, 32, 14, 14])
    """

    def __init__(self, channels: int, *, expansion: int = 4, drop_path: float = 0.0) -> None:
        check_integer("channels", channels, 1)
        check_integer("expansion", expansion, 1)
        super().__init__()
        hidden = expansion * channels
        branch = nn.Sequential()
        branch.depthwise = conv_norm(channels, channels, 7, groups=channels)
        branch.star = StarOperation(channels, hidden)
        branch.project = conv_norm(hidden, channels, 1)
        last = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        branch.last = normal_(last, 0.02)
        branch.drop_path = StochasticDepth(drop_path)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input."""
        return x + self.branch(x)


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> ConvNormAct:
    """Return a convolution with a bias, initialized as in StarNet, and BatchNorm."""
    layer = ConvNormAct(
        in_channels, out_channels, kernel_size, stride, groups=groups, bias=True, act=None
    )
    normal_(layer.conv, 0.02)
    return layer
