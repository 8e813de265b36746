"""RegNet's block, and the rule that derives the width of each block from three numbers.

Source: Radosavovic et al., "Designing Network Design Spaces", arXiv 2003.13678.
"""

import math

from torch import nn

from cnnarch.blocks._checks import check_integer, check_number, check_positive
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import ResidualSum
from cnnarch.blocks.squeeze_excite import SE

__all__ = ["XBlock", "quantized_linear_widths"]

WIDTH_STEP = 8


def quantized_linear_widths(depth: int, w_0: int, w_a: float, w_m: float) -> list[int]:
    r"""Return the width of each block of a RegNet, before it is adapted to the group width.

    The widths grow linearly, $u_j = w_0 + w_a j$ (eq. 2). Each is rounded to the nearest power
    $w_0 w_m^{s_j}$ with an integer $s_j$ (eqs. 3 and 4), so blocks with the same $s_j$ form a
    stage, and then to the nearest multiple of 8.

    Args:
        depth: number of blocks.
        w_0: width of the first block; a multiple of 8.
        w_a: slope, at least 0.
        w_m: ratio of the widths of successive stages, above 1.

    Raises:
        ValueError: an argument is out of range.

    >>> quantized_linear_widths(13, 24, 36.44, 2.49)  # RegNetX-200MF
    [24, 56, 152, 152, 152, 152, 368, 368, 368, 368, 368, 368, 368]
    """
    check_integer("depth", depth, 1)
    check_integer("w_0", w_0, 1)
    check_number("w_a", w_a, "a number of at least 0", lambda slope: 0 <= slope < math.inf)
    check_number("w_m", w_m, "a number above 1", lambda ratio: 1 < ratio < math.inf)
    if w_0 % WIDTH_STEP:
        raise ValueError(f"w_0 must be a multiple of {WIDTH_STEP}, got {w_0}")
    linear = [w_0 + w_a * j for j in range(depth)]
    powers = [round(math.log(u / w_0, w_m)) for u in linear]
    return [WIDTH_STEP * round(w_0 * w_m**s / WIDTH_STEP) for s in powers]


class XBlock(ResidualSum):
    """The X block: a 1x1, a grouped 3x3 and a 1x1 convolution of equal width (Fig. 4).

    With `squeeze_ratio`, it is the Y block, which has squeeze-and-excitation after the 3x3. The
    branch's children are `reduce`, `conv`, `attention` (only in the Y block) and `expand`.

    Args:
        in_channels: number of input channels.
        channels: number of channels in all convolutions and in the output.
        stride: stride of the 3x3 convolution and of the shortcut.
        group_width: number of channels in each group of the 3x3 convolution; it must divide
            `channels`.
        squeeze_ratio: width of the squeeze divided by `in_channels`; None omits
            squeeze-and-excitation.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)

    Raises:
        ValueError: a number is out of range, or `group_width` does not divide `channels`.

    >>> XBlock(32, 48, 2, group_width=24, squeeze_ratio=0.25).branch.attention.reduce
    Conv2d(48, 8, kernel_size=(1, 1), stride=(1, 1))
    >>> import torch
    >>> XBlock(32, 48, 2, group_width=24)(torch.zeros(1, 32, 56, 56)).shape
    torch.Size([1, 48, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        group_width: int,
        squeeze_ratio: float | None = None,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("group_width", group_width, 1)
        groups, rest = divmod(channels, group_width)
        if rest:
            raise ValueError(f"group_width must divide {channels} channels, got {group_width}")
        if squeeze_ratio is not None:
            check_positive("squeeze_ratio", squeeze_ratio)
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, channels, 1)
        branch.conv = ConvNormAct(channels, channels, 3, stride, groups=groups)
        if squeeze_ratio is not None:
            branch.attention = SE(channels, round(squeeze_ratio * in_channels))
        branch.expand = ConvNormAct(channels, channels, 1, act=None)
        super().__init__(branch, in_channels, channels, stride)
