"""ConvNeXt block: a 7x7 depthwise convolution, then an MLP over the channels of each pixel.

Source: Liu et al., "A ConvNet for the 2020s", arXiv 2201.03545, sec. 2 and Fig. 4.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.layer_scale import LayerScale
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["ConvNeXtBlock"]


class ConvNeXtBlock(nn.Module):
    r"""$y = x + \gamma \, W_2 \, \mathrm{GELU}(W_1 \, \mathrm{LN}(W_{dw} * x))$.

    The MLP has four times as many hidden units as channels. All layers have biases, LayerNorm's eps
    is 1e-6, and weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels of the input and the output.
        layer_scale: initial value of the factors gamma, greater than 0.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `channels` is not a positive integer, or a rate is out of range.

    >>> import torch
    >>> ConvNeXtBlock(96)(torch.zeros(1, 96, 14, 14)).shape
    torch.Size([1, 96, 14, 14])
    """

    def __init__(self, channels: int, *, layer_scale: float = 1e-6, drop_path: float = 0.0) -> None:
        check_integer("channels", channels, 1)
        super().__init__()
        self.depthwise = normal_(nn.Conv2d(channels, channels, 7, padding=3, groups=channels), 0.02)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.expand = normal_(nn.Linear(channels, 4 * channels), 0.02)
        self.mlp.act = nn.GELU()
        self.mlp.project = normal_(nn.Linear(4 * channels, channels), 0.02)
        self.scale = LayerScale(channels, layer_scale)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input."""
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        y = self.scale(self.mlp(self.norm(y)))
        return x + self.drop_path(y.permute(0, 3, 1, 2))
