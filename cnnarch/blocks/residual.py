"""Residual blocks: y = ReLU(F(x) + x), where F is two or three convolutions.

Source: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, sec. 3.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct, MakeAct
from cnnarch.blocks.shortcut import MakeShortcut, projection

__all__ = ["Bottleneck", "Residual", "ResidualSum"]

MakeAttention = Callable[[int], nn.Module]


class ResidualSum(nn.Module):
    """y = ReLU(branch(x) + shortcut(x)); the shortcut is the identity if the shape is unchanged.

    Args:
        branch: any module, the paper's F.
        in_channels: number of input channels.
        out_channels: number of channels in the branch's output.
        stride: total stride of the branch.
        make_shortcut: creates the shortcut from input channels, output channels and stride if the
            shape changes: `projection` (option B) or `ZeroPadShortcut` (option A).
        act: creates the activation after the sum; `nn.Identity` for none.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    >>> import torch
    >>> ResidualSum(nn.Conv2d(64, 128, 3, 2, 1), 64, 128, 2)(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 128, 4, 4])
    """

    def __init__(
        self,
        branch: nn.Module,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        make_shortcut: MakeShortcut = projection,
        act: MakeAct = nn.ReLU,
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = make_shortcut(in_channels, out_channels, stride)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        """Add the outputs of the branch and the shortcut, then apply the activation."""
        return self.act(self.branch(x) + self.shortcut(x))


class Residual(ResidualSum):
    r"""Basic block: $y = \mathrm{ReLU}(\mathrm{BN}(W_2 \mathrm{ReLU}(\mathrm{BN}(W_1 x))) + x)$.

    The two 3x3 convolutions (the paper's Fig. 5, left) are `branch.conv1` and `branch.conv2`.

    Args:
        in_channels: number of input channels.
        channels: number of channels in both convolutions and in the output.
        stride: stride of the first convolution and of the shortcut.
        make_shortcut: `projection` (option B) or `ZeroPadShortcut` (option A).
        attention: creates the branch's last layer, such as `SE`, from its number of channels.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)

    >>> import torch
    >>> Residual(64, 64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        make_shortcut: MakeShortcut = projection,
        attention: MakeAttention | None = None,
    ) -> None:
        check_integer("channels", channels, 1)
        branch = nn.Sequential()
        branch.conv1 = ConvNormAct(in_channels, channels, 3, stride)
        branch.conv2 = ConvNormAct(channels, channels, 3, act=None)
        if attention is not None:
            branch.attention = attention(channels)
        super().__init__(branch, in_channels, channels, stride, make_shortcut=make_shortcut)


class Bottleneck(ResidualSum):
    """Bottleneck block: 1x1 to `channels`, 3x3, 1x1 to four times `channels` (Fig. 5, right).

    The branch's children are `reduce`, `conv` and `expand`. With `groups`, this is the ResNeXt
    block (Xie et al., arXiv 1611.05431, Fig. 3c).

    Args:
        in_channels: number of input channels.
        channels: width of the paper's bottleneck; the output is four times as wide.
        stride: stride of the block.
        groups: number of groups in the 3x3 convolution, ResNeXt's cardinality.
        group_width: number of channels per group; None means channels / groups.
        stride_in_1x1: whether the first 1x1 convolution is strided, as in the paper. Otherwise the
            3x3 convolution is strided, as in torchvision's and timm's checkpoints ("v1.5").
        make_shortcut: `projection` (option B) or `pooled_projection` (ResNet-D).
        attention: creates the branch's last layer, such as `SE`, from its number of channels.
        act: creates each activation.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)

    >>> import torch
    >>> Bottleneck(256, 64)(torch.zeros(1, 256, 56, 56)).shape
    torch.Size([1, 256, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        groups: int = 1,
        group_width: int | None = None,
        stride_in_1x1: bool = False,
        make_shortcut: MakeShortcut = projection,
        attention: MakeAttention | None = None,
        act: MakeAct = nn.ReLU,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("groups", groups, 1)
        width = channels if group_width is None else groups * group_width
        out = 4 * channels
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, width, 1, first, act=act)
        branch.conv = ConvNormAct(width, width, 3, second, groups=groups, act=act)
        branch.expand = ConvNormAct(width, out, 1, act=None)
        if attention is not None:
            branch.attention = attention(out)
        super().__init__(branch, in_channels, out, stride, make_shortcut=make_shortcut, act=act)
