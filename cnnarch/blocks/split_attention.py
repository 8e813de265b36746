"""Split attention: for each channel, softmax weights for the sum of several versions of the map.

Source: Zhang et al., "ResNeSt: Split-Attention Networks", arXiv 2004.08955, sec. 3.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import ResidualSum
from cnnarch.blocks.selective_kernel import KernelAttention
from cnnarch.blocks.shortcut import pooled_projection

__all__ = ["SplitAttention", "SplitAttentionBottleneck"]

MIN_SQUEEZE = 32  # in the authors' code


class SplitAttention(nn.Module):
    r"""$y = \sum_r a_r x_r$, where the weights $a_r$ of each channel add up to 1 over the splits.

    The input consists of the splits $x_r$ one after another. `attention` computes the weights as
    in Selective Kernel Networks, but its layers have biases.

    In training, a batch of one image raises an error, because BatchNorm cannot normalize a 1x1 map.

    Args:
        channels: number of channels in each split and in the output.
        squeeze_channels: width between the two layers of the attention.
        radix: number of splits, the paper's R; at least 2.

    Shape:
        (N, radix * channels, H, W) -> (N, channels, H, W)

    Raises:
        ValueError: a number is out of range.

    >>> import torch
    >>> SplitAttention(64, 32).eval()(torch.zeros(1, 128, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(self, channels: int, squeeze_channels: int, radix: int = 2) -> None:
        check_integer("radix", radix, 2)
        super().__init__()
        self.radix = radix
        self.attention = KernelAttention(channels, squeeze_channels, radix, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Add the splits, each multiplied by its weights."""
        splits = x.unflatten(1, (self.radix, -1))  # type: ignore[no-untyped-call]
        return (self.attention(splits) * splits).sum(1)

    def extra_repr(self) -> str:
        """Return the number of splits."""
        return f"radix={self.radix}"


class SplitAttentionBottleneck(ResidualSum):
    """ResNeSt's block: a bottleneck whose 3x3 convolution is followed by `SplitAttention`.

    The branch's children are `reduce`, `conv`, `attention`, `pool` (only with a stride) and
    `expand`. The 3x3 convolution computes the splits in separate groups. A 3x3 average after the
    attention has the stride; its padding counts as zeros. The shortcut averages, then projects.

    Args:
        in_channels: number of input channels.
        channels: width of the bottleneck; the output is four times as wide.
        stride: stride of the block.
        radix: number of splits, the paper's R.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: a number is out of range.

    >>> import torch
    >>> SplitAttentionBottleneck(256, 64).eval()(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 256, 56, 56])
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *, radix: int = 2) -> None:
        check_integer("channels", channels, 1)
        check_integer("radix", radix, 2)
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, channels, 1)
        branch.conv = ConvNormAct(channels, radix * channels, 3, groups=radix)
        squeeze = max(radix * channels // 4, MIN_SQUEEZE)
        branch.attention = SplitAttention(channels, squeeze, radix)
        if stride != 1:
            branch.pool = nn.AvgPool2d(3, stride, 1)
        branch.expand = ConvNormAct(channels, 4 * channels, 1, act=None)
        super().__init__(branch, in_channels, 4 * channels, stride, make_shortcut=pooled_projection)
