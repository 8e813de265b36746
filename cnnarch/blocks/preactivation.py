"""Pre-activation residual blocks: y = F(a) + x with a = ReLU(BN(x)), and no ReLU after the sum.

Source: He et al., "Identity Mappings in Deep Residual Networks", arXiv 1603.05027.
"""

from functools import partial

from torch import Tensor, nn

from cnnarch.blocks._checks import check_probability
from cnnarch.blocks.conv import MakeNorm
from cnnarch.blocks.linear_conv import linear_conv
from cnnarch.blocks.shortcut import MakeShortcut, linear_projection

__all__ = ["PreActBottleneck", "PreActResidual", "PreActSum"]


class PreActSum(nn.Module):
    r"""$y = F(a) + x$ with $a = \mathrm{ReLU}(\mathrm{BN}(x))$; F starts with a convolution.

    If the shape changes, the shortcut reads $a$ instead of $x$, as in the authors' code. The
    attribute `activate_first` is then True. Set it to let any other block's shortcut carry $a$, as
    the paper does in the first block after a convolution (sec. 4).

    Args:
        branch: any module, the paper's F.
        in_channels: number of input channels.
        out_channels: number of channels in the branch's output.
        stride: total stride of the branch.
        make_shortcut: creates the shortcut from input channels, output channels and stride if the
            shape changes: `linear_projection` or `ZeroPadShortcut`.
        norm: creates the norm from its number of channels.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    >>> import torch
    >>> PreActSum(nn.Conv2d(64, 128, 3, 2, 1), 64, 128, 2)(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 128, 4, 4])
    """

    def __init__(
        self,
        branch: nn.Module,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        make_shortcut: MakeShortcut = linear_projection,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.norm = norm(in_channels)
        self.act = nn.ReLU()
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        self.activate_first = stride != 1 or in_channels != out_channels
        if self.activate_first:
            self.shortcut = make_shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Activate the input, then add the outputs of the branch and the shortcut."""
        activated = self.act(self.norm(x))
        return self.branch(activated) + self.shortcut(activated if self.activate_first else x)


class PreActResidual(PreActSum):
    """Pre-activation block with two 3x3 convolutions, `branch.conv1` and `branch.conv2`.

    Args:
        in_channels: number of input channels.
        channels: number of channels in both convolutions and in the output.
        stride: stride of the first convolution and of the shortcut.
        make_shortcut: `linear_projection` or `ZeroPadShortcut`.
        dropout: probability of zeroing an input value of the second convolution, in [0, 1), as in
            Wide ResNets (Zagoruyko and Komodakis, arXiv 1605.07146, sec. 2.4).

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer, or `dropout` is out of range.

    >>> import torch
    >>> PreActResidual(64, 64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        make_shortcut: MakeShortcut = linear_projection,
        dropout: float = 0.0,
    ) -> None:
        check_probability("dropout", dropout)
        branch = nn.Sequential()
        branch.conv1 = linear_conv(in_channels, channels, 3, stride)
        branch.norm, branch.act = nn.BatchNorm2d(channels), nn.ReLU()
        branch.dropout = nn.Dropout(dropout)  # kept even at rate 0, so the layout never changes
        branch.conv2 = linear_conv(channels, channels, 3)
        super().__init__(branch, in_channels, channels, stride, make_shortcut=make_shortcut)


class PreActBottleneck(PreActSum):
    """Pre-activation bottleneck: 1x1 to `channels`, 3x3, 1x1 to four times `channels`.

    The branch's convolutions are `reduce`, `conv` and `expand`.

    Args:
        in_channels: number of input channels.
        channels: width of the bottleneck; the output is four times as wide.
        stride: stride of the block.
        stride_in_1x1: whether the first 1x1 is strided, as in the authors' code, or the 3x3.
        norm: creates each norm from its number of channels.
        conv: the class of all convolutions, such as `StandardizedConv2d`.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> PreActBottleneck(256, 64)(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 256, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        stride_in_1x1: bool = True,
        norm: MakeNorm = nn.BatchNorm2d,
        conv: type[nn.Conv2d] = nn.Conv2d,
    ) -> None:
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        branch, out = nn.Sequential(), 4 * channels
        branch.reduce = linear_conv(in_channels, channels, 1, first, conv)
        branch.norm1, branch.act1 = norm(channels), nn.ReLU()
        branch.conv = linear_conv(channels, channels, 3, second, conv)
        branch.norm2, branch.act2 = norm(channels), nn.ReLU()
        branch.expand = linear_conv(channels, out, 1, 1, conv)
        shortcut = partial(linear_projection, conv=conv)
        super().__init__(branch, in_channels, out, stride, make_shortcut=shortcut, norm=norm)
