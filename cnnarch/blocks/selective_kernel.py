"""Selective kernel: each channel mixes the outputs of a small and a large kernel.

Source: Li et al., "Selective Kernel Networks", arXiv 1903.06586, sec. 3.1.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.initialization import he_normal_

__all__ = ["KernelAttention", "SelectiveKernel"]

DILATIONS = (1, 2)  # 3x3 kernels that span three and five pixels


class KernelAttention(nn.Module):
    r"""Weights of each path's channels, $\mathrm{softmax}(W_2 \, \delta(\mathrm{BN}(W_1 z)))$.

    $z$ is each channel's mean over the sum of the paths' maps (eqs. 1 and 2). The layers `reduce`
    (eq. 3) and `expand` are 1x1 convolutions; the softmax is over the paths (eq. 5).

    Args:
        channels: number of channels of each path.
        squeeze_channels: width between the two layers, the paper's d.
        paths: number of paths, the paper's M.
        bias: whether the two layers have biases.

    Shape:
        (N, paths, channels, H, W) -> (N, paths, channels, 1, 1)

    Raises:
        ValueError: a count is not a positive integer.

    >>> KernelAttention(64, 32).eval()(torch.zeros(1, 2, 64, 7, 7)).shape
    torch.Size([1, 2, 64, 1, 1])
    """

    def __init__(
        self, channels: int, squeeze_channels: int, paths: int = 2, *, bias: bool = False
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("squeeze_channels", squeeze_channels, 1)
        check_integer("paths", paths, 1)
        super().__init__()
        self.paths = paths
        self.reduce = ConvNormAct(channels, squeeze_channels, 1, bias=bias)
        self.expand = he_normal_(nn.Conv2d(squeeze_channels, paths * channels, 1, bias=bias))
        self.softmax = nn.Softmax(1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return the weights, which add up to 1 over the paths."""
        squeezed = maps.sum(1).mean((2, 3), keepdim=True)
        scores = self.expand(self.reduce(squeezed))
        return self.softmax(scores.unflatten(1, (self.paths, -1)))


class SelectiveKernel(nn.Module):
    r"""$y = a_1 \cdot u_1 + a_2 \cdot u_2$, where the weights $a_1 + a_2 = 1$ depend on the image.

    $u_1$ and $u_2$ are the outputs of two `ConvNormAct`, `paths.0` with 3x3 kernels and `paths.1`
    with 3x3 kernels that span 5x5 pixels by dilation. `attention` computes the weights (eq. 6).

    Args:
        in_channels: number of input channels.
        channels: number of output channels.
        stride: stride of both convolutions.
        groups: number of groups in both convolutions.
        squeeze_channels: width between the two layers of the attention, the paper's d.
        split: whether each path reads only its half of the input channels, as in timm's networks
            with ungrouped convolutions. In the paper, each path reads all of them.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer, or `in_channels` is odd and to be split.

    >>> SelectiveKernel(64, 128, 2, squeeze_channels=32).eval()(torch.zeros(1, 64, 8, 8)).shape
    torch.Size([1, 128, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        groups: int = 1,
        squeeze_channels: int,
        split: bool = False,
    ) -> None:
        if split and in_channels % len(DILATIONS):
            raise ValueError(f"in_channels must be even to be split, got {in_channels}")
        super().__init__()
        self.split = split
        read = in_channels // len(DILATIONS) if split else in_channels
        self.paths = nn.ModuleList(
            ConvNormAct(read, channels, 3, stride, groups=groups, dilation=dilation)
            for dilation in DILATIONS
        )
        self.attention = KernelAttention(channels, squeeze_channels, len(DILATIONS))

    def forward(self, x: Tensor) -> Tensor:
        """Compute both maps and add them with their weights."""
        inputs = x.chunk(len(self.paths), 1) if self.split else [x] * len(self.paths)
        maps = torch.stack([path(inputs[i]) for i, path in enumerate(self.paths)], 1)
        return (self.attention(maps) * maps).sum(1)

    def extra_repr(self) -> str:
        """Return whether the input is split."""
        return f"split={self.split}"
