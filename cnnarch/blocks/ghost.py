"""Ghost modules and bottlenecks: cheap depthwise copies of a few computed maps.

Source: Han et al., "GhostNet: More Features from Cheap Operations", arXiv 1911.11907, sec. 3.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct, MakeNorm
from cnnarch.blocks.separable import DepthwiseSeparable

__all__ = ["GhostBottleneck", "GhostModule"]


class GhostModule(nn.Module):
    r"""$y = [\,h, \Phi(h)\,]$, where $h = \phi(\mathrm{BN}(W * x))$ has 1 / `ratio` of the maps.

    `primary` is an ordinary convolution. `cheap`, the paper's $\Phi$, is a depthwise convolution
    that computes `ratio - 1` ghost maps from each map of $h$ (eq. 3). Both are followed by a norm
    and an activation. The module needs about 1 / ratio of the multiply-adds of one convolution.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels, a multiple of `ratio`.
        kernel_size: side length of the primary kernel, in pixels.
        ratio: number of output maps for each primary map, the paper's s; at least 2.
        cheap_kernel_size: side length of the depthwise kernel, in pixels, the paper's d.
        norm: creates a normalization layer from its number of channels.
        act: creates an activation; None omits it.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H, W)

    Raises:
        ValueError: a count is out of range, or `ratio` does not divide `out_channels`.

    >>> GhostModule(16, 24)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 24, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        ratio: int = 2,
        cheap_kernel_size: int = 3,
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        check_integer("out_channels", out_channels, 1)
        check_integer("ratio", ratio, 2)
        if out_channels % ratio:
            raise ValueError(f"out_channels must be a multiple of {ratio}, got {out_channels}")
        super().__init__()
        primary = out_channels // ratio
        self.primary = ConvNormAct(in_channels, primary, kernel_size, norm=norm, act=act)
        self.cheap = ConvNormAct(
            primary,
            out_channels - primary,
            cheap_kernel_size,
            groups=primary,
            norm=norm,
            act=act,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the primary maps and their ghosts."""
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), 1)


class GhostBottleneck(nn.Module):
    r"""$y = S(x) + G_2(\mathrm{SE}(\mathrm{BN}(W_{dw} * G_1(x))))$, an inverted residual of ghosts.

    The ghost module `expand` has activations, and `project` has none. Only a block with a stride
    has the convolution `depthwise` (Fig. 3). Every block has a residual connection: $S$ is the
    identity or, if the shape changes, a depthwise and a 1x1 convolution, without activations.

    Args:
        in_channels: number of input channels.
        hidden_channels: number of channels after `expand`; even.
        out_channels: number of output channels; even.
        kernel_size: side length of the depthwise kernels, in pixels.
        stride: stride of the depthwise convolutions, in pixels.
        depthwise: whether the branch has a depthwise convolution; None means if `stride` is not 1.
        se: creates a squeeze-and-excitation module from `hidden_channels`; None omits it.
        norm: creates a normalization layer from its number of channels.
        act: creates an activation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer or is odd, or a block with a stride has no
            depthwise convolution.

    >>> GhostBottleneck(16, 48, 24, 3, stride=2)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 24, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        depthwise: bool | None = None,
        se: Callable[[int], nn.Module] | None = None,
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        check_integer("hidden_channels", hidden_channels, 1)
        depthwise = stride != 1 if depthwise is None else depthwise
        if stride != 1 and not depthwise:
            raise ValueError(f"depthwise must be True if stride is not 1, got stride {stride}")
        super().__init__()
        branch = nn.Sequential()
        branch.expand = GhostModule(in_channels, hidden_channels, norm=norm, act=act)
        if depthwise:
            branch.depthwise = ConvNormAct(
                hidden_channels,
                hidden_channels,
                kernel_size,
                stride,
                groups=hidden_channels,
                norm=norm,
                act=None,
            )
        if se is not None:
            branch.se = se(hidden_channels)
        branch.project = GhostModule(hidden_channels, out_channels, norm=norm, act=None)
        self.branch = branch
        self.shortcut: nn.Module = nn.Identity()
        if depthwise or in_channels != out_channels:
            shape = (in_channels, out_channels, kernel_size, stride)
            self.shortcut = DepthwiseSeparable(*shape, norm=norm, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch's output to the shortcut's."""
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y
