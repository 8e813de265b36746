"""Res2Net's bottleneck: small 3x3 convolutions in a row, each reading the output of the previous.

Source: Gao et al., "Res2Net: A New Multi-scale Backbone Architecture", arXiv 1904.01169, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import ResidualSum

__all__ = ["MultiScaleConv", "Res2NetBottleneck"]


class MultiScaleConv(nn.Module):
    r"""3x3 convolutions of s subsets of the channels: $y_i = K_i(x_i + y_{i-1})$ for $i < s$.

    The first convolution reads only $x_1$. The last subset has no convolution: $y_s = x_s$. Its
    number does not matter, because the layers around this one mix all channels; the paper's eq. 1
    gives it the number 1. A subset that has passed k convolutions has seen 2k + 1 pixels per side,
    so the concatenated output contains s scales.

    If the shape changes, the convolutions are independent, $y_i = K_i(x_i)$, and the last subset
    is averaged over 3x3 pixels, as in the authors' code. Padding counts as zeros.

    Args:
        channels: number of input and output channels; a multiple of `scale`.
        scale: number of subsets, the paper's s; at least 2.
        stride: stride of the convolutions and of the average.
        groups: number of groups in each convolution.
        hierarchical: whether each convolution also reads the output of the previous one.

    Shape:
        (N, channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: a number is out of range, `scale` does not divide `channels`, or a hierarchical
            layer has a stride.

    >>> MultiScaleConv(104, 4)(torch.zeros(1, 104, 56, 56)).shape
    torch.Size([1, 104, 56, 56])
    """

    def __init__(
        self,
        channels: int,
        scale: int,
        stride: int = 1,
        *,
        groups: int = 1,
        hierarchical: bool = True,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("scale", scale, 2)
        if channels % scale:
            raise ValueError(f"channels must be a multiple of scale {scale}, got {channels}")
        if hierarchical and stride != 1:
            raise ValueError(f"stride must be 1 in a hierarchical layer, got {stride}")
        super().__init__()
        width = channels // scale
        self.scale = scale
        self.hierarchical = hierarchical
        self.convs = nn.ModuleList(
            ConvNormAct(width, width, 3, stride, groups=groups) for _ in range(scale - 1)
        )
        self.pool = nn.Identity() if hierarchical else nn.AvgPool2d(3, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the subsets in order and concatenate the outputs."""
        subsets = x.chunk(self.scale, dim=1)
        outputs: list[Tensor] = []
        for i, conv in enumerate(self.convs):
            adds = self.hierarchical and i > 0
            outputs.append(conv(subsets[i] + outputs[-1] if adds else subsets[i]))
        return torch.cat([*outputs, self.pool(subsets[self.scale - 1])], dim=1)

    def extra_repr(self) -> str:
        """Return the scale, and whether the layer is hierarchical."""
        return f"scale={self.scale}, hierarchical={self.hierarchical}"


class Res2NetBottleneck(ResidualSum):
    """ResNet's bottleneck with a `MultiScaleConv` instead of its 3x3 convolution (Fig. 2b).

    The branch's children are `reduce`, `conv` and `expand`. The convolutions of a block that
    changes the shape are independent.

    Args:
        in_channels: number of input channels.
        channels: width of ResNet's bottleneck; the output is four times as wide.
        stride: stride of the block.
        scale: number of subsets, the paper's s.
        group_width: number of channels per group and subset. With one group, it is the paper's w.
        groups: number of groups in the 3x3 convolutions, ResNeXt's cardinality c.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)

    Raises:
        ValueError: a number is out of range.

    >>> Res2NetBottleneck(256, 64, scale=4, group_width=26)(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 256, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        scale: int,
        group_width: int,
        groups: int = 1,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("group_width", group_width, 1)
        check_integer("groups", groups, 1)
        check_integer("scale", scale, 2)
        width = scale * groups * group_width
        same_shape = stride == 1 and in_channels == 4 * channels
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, width, 1)
        branch.conv = MultiScaleConv(width, scale, stride, groups=groups, hierarchical=same_shape)
        branch.expand = ConvNormAct(width, 4 * channels, 1, act=None)
        super().__init__(branch, in_channels, 4 * channels, stride)
