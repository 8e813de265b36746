"""Xception module: separable convolutions with a shortcut, and a pool at the end if it downsamples.

Source: Chollet, "Xception", arXiv 1610.02357, sec. 3 and Fig. 5.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import he_normal_
from cnnarch.blocks.shortcut import projection

__all__ = ["SeparableConv", "XceptionModule"]


class SeparableConv(nn.Sequential):
    r"""$y = \mathrm{BN}(W_{1\times1} * W_{dw} * x)$: depthwise and 1x1 convolutions, then a norm.

    The children are `depthwise` (3x3), `pointwise` and `norm`. Section 4.7 shows that an activation
    between the convolutions reduces accuracy.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W)

    Raises:
        ValueError: a count is not a positive integer.

    >>> import torch
    >>> SeparableConv(8, 16)(torch.zeros(1, 8, 9, 9)).shape
    torch.Size([1, 16, 9, 9])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("out_channels", out_channels, 1)
        super().__init__()
        self.depthwise = he_normal_(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        )
        self.pointwise = he_normal_(nn.Conv2d(in_channels, out_channels, 1, bias=False))
        self.norm = nn.BatchNorm2d(out_channels)


def leading_relu() -> nn.ReLU:
    """Return a ReLU that never overwrites its input, because the shortcut also reads it."""
    act = nn.ReLU()
    act.shares_input = True  # type: ignore[assignment] # read by set_inplace
    return act


class XceptionModule(nn.Module):
    """y = branch(x) + shortcut(x), where the branch consists of ReLUs and separable convolutions.

    With stride 2, the branch ends with a 3x3 max-pool, and the shortcut is a strided 1x1
    convolution with BatchNorm. Otherwise, the shortcut is the identity if the number of channels
    is unchanged.

    Args:
        in_channels: number of input channels.
        widths: number of output channels of each separable convolution.
        stride: stride of the pool and the shortcut; 1 omits the pool.
        leading_act: whether a ReLU precedes the first convolution.

    Shape:
        (N, in_channels, H, W) -> (N, widths[-1], ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `widths` is empty, or a count is not a positive integer.

    >>> import torch
    >>> XceptionModule(128, (256, 256), 2)(torch.zeros(1, 128, 74, 74)).shape
    torch.Size([1, 256, 37, 37])
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        stride: int = 1,
        *,
        leading_act: bool = True,
    ) -> None:
        if not widths:
            raise ValueError("widths must list at least one convolution, got none")
        check_integer("stride", stride, 1)
        super().__init__()
        self.out_channels = widths[-1]
        self.branch = nn.Sequential()
        for i, (before, after) in enumerate(zip((in_channels, *widths[:-1]), widths, strict=True)):
            if i or leading_act:
                self.branch.add_module(f"act{i + 1}", nn.ReLU() if i else leading_relu())
            self.branch.add_module(f"conv{i + 1}", SeparableConv(before, after))
        if stride > 1:
            self.branch.pool = nn.MaxPool2d(3, stride, 1)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != self.out_channels:
            self.shortcut = projection(in_channels, self.out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch and the shortcut."""
        # Captum's DeepLift replaces the gradient of the tensor that a ReLU reads. The view keeps
        # the shortcut's gradient out of it.
        return self.branch(x.view_as(x)) + self.shortcut(x)
