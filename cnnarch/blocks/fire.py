"""Fire module: squeeze with 1x1 convolutions, expand with 1x1 and 3x3 convolutions.

Source: Iandola et al., "SqueezeNet", arXiv 1602.07360, sec. 3.2 and Fig. 1.
"""

from torch import nn

from cnnarch.blocks.inception import Branches, inception_conv

__all__ = ["Fire"]


class Fire(nn.Sequential):
    r"""$s = \mathrm{ReLU}(W_s x)$, $y = [\mathrm{ReLU}(W_1 s);\ \mathrm{ReLU}(W_3 * s)]$.

    The squeeze layer reduces the number of channels that the 3x3 convolution reads. All
    convolutions have biases, and weights are drawn from N(0, 2 / fan_in).

    Args:
        in_channels: number of input channels.
        squeeze: filters in the squeeze layer, the paper's s1x1.
        expand1x1: 1x1 filters in the expand layer, e1x1.
        expand3x3: 3x3 filters in the expand layer, e3x3.

    Shape:
        (N, in_channels, H, W) -> (N, expand1x1 + expand3x3, H, W)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> Fire(96, 16, 64, 64)(torch.zeros(1, 96, 55, 55)).shape
    torch.Size([1, 128, 55, 55])
    """

    def __init__(self, in_channels: int, squeeze: int, expand1x1: int, expand3x3: int) -> None:
        super().__init__()
        self.squeeze = inception_conv(in_channels, squeeze, 1)
        self.expand = Branches()
        self.expand.conv1x1 = inception_conv(squeeze, expand1x1, 1)
        self.expand.conv3x3 = inception_conv(squeeze, expand3x3, 3)
        self.out_channels = expand1x1 + expand3x3
