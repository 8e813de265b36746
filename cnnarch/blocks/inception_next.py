"""InceptionNeXt block: ConvNeXt's block with a depthwise convolution of parallel branches.

Source: Yu et al., "InceptionNeXt: When Inception Meets ConvNeXt", arXiv 2303.16900, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_number
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.layer_scale import LayerScale
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["InceptionDepthwise", "InceptionNeXtBlock"]


class InceptionDepthwise(nn.Module):
    r"""$y = [x_{id}, D_{3 \times 3} * x_{hw}, D_{1 \times k} * x_w, D_{k \times 1} * x_h]$.

    The input is split along the channels. Three small groups are filtered by depthwise convolutions
    with a square, a horizontal and a vertical kernel; all other channels are passed on unchanged.

    Args:
        channels: number of channels of the input and the output.
        band_kernel: length of the horizontal and vertical kernels, in pixels; must be odd.
        ratio: share of the channels in each of the three groups, in (0, 1/3]. The number of
            channels is rounded down.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `channels` is not a positive integer, `band_kernel` is not a positive odd
            integer, or `ratio` is out of range or gives empty groups.

    >>> InceptionDepthwise(96)(torch.zeros(1, 96, 14, 14)).shape
    torch.Size([1, 96, 14, 14])
    """

    def __init__(self, channels: int, *, band_kernel: int = 11, ratio: float = 1 / 8) -> None:
        check_integer("channels", channels, 1)
        check_integer("band_kernel", band_kernel, 1)
        if band_kernel % 2 == 0:
            raise ValueError(f"band_kernel must be odd, got {band_kernel}")
        check_number("ratio", ratio, "in (0, 1/3]", lambda number: 0 < number <= 1 / 3)
        group = int(channels * ratio)
        if group < 1:
            raise ValueError(f"ratio must leave a channel per group of {channels}, got {ratio}")
        super().__init__()
        self.sizes = [channels - 3 * group, group, group, group]
        self.square = _depthwise(group, (3, 3))
        self.horizontal = _depthwise(group, (1, band_kernel))
        self.vertical = _depthwise(group, (band_kernel, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Filter three groups of channels."""
        same, square, horizontal, vertical = torch.split(x, self.sizes, 1)
        filtered = self.square(square), self.horizontal(horizontal), self.vertical(vertical)
        return torch.cat((same, *filtered), 1)


class InceptionNeXtBlock(nn.Module):
    r"""$y = x + \gamma \, W_2 * \mathrm{GELU}(W_1 * \mathrm{BN}(D(x)))$.

    $D$ is an `InceptionDepthwise`, and $W_1$ and $W_2$ are 1x1 convolutions. All convolutions have
    biases. Weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels of the input and the output.
        expansion: channels between $W_1$ and $W_2$ per channel of the input.
        band_kernel: see `InceptionDepthwise`.
        ratio: see `InceptionDepthwise`.
        layer_scale: initial value of the factors gamma, greater than 0.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a count is not a positive integer, or a value is out of range.

    >>> InceptionNeXtBlock(96)(torch.zeros(1, 96, 14, 14)).shape
    torch.Size([1, 96, 14, 14])
    """

    def __init__(
        self,
        channels: int,
        *,
        expansion: int = 4,
        band_kernel: int = 11,
        ratio: float = 1 / 8,
        layer_scale: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("expansion", expansion, 1)
        super().__init__()
        hidden = expansion * channels
        branch = nn.Sequential()
        branch.depthwise = InceptionDepthwise(channels, band_kernel=band_kernel, ratio=ratio)
        branch.norm = nn.BatchNorm2d(channels)
        branch.expand = normal_(nn.Conv2d(channels, hidden, 1), 0.02)
        branch.act = nn.GELU()
        branch.project = normal_(nn.Conv2d(hidden, channels, 1), 0.02)
        branch.scale = LayerScale(channels, layer_scale, dim=-3)
        branch.drop_path = StochasticDepth(drop_path)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input."""
        return x + self.branch(x)


def _depthwise(channels: int, kernel_size: tuple[int, int]) -> nn.Conv2d:
    height, width = kernel_size
    padding = height // 2, width // 2
    layer = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
    return normal_(layer, 0.02)
