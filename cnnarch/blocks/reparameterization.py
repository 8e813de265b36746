"""Convolutions that are trained in several branches, which become one convolution for inference.

Sources: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697, sec. 3.3;
Vasu et al., "MobileOne: An Improved One millisecond Mobile Backbone", arXiv 2206.04040, sec. 3.2.
"""

from collections.abc import Callable
from functools import reduce
from operator import add

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct, MakeNorm
from cnnarch.blocks.residual import MakeAttention

__all__ = ["RepConv", "RepConvAct"]


class RepConv(nn.Module):
    r"""$y = \sum_i \mathrm{BN}_i(W_i * x) + \mathrm{BN}(W_{1\times1} * x) + \mathrm{BN}(x)$.

    The branches are `branches` convolutions of the same size, `conv1`, `conv2`, ..., a 1x1
    convolution `pointwise` if the others are larger, and a norm `identity` if the shape is
    unchanged. There is no activation, so in eval mode the sum is one convolution with a bias.
    `cnnarch.inference.fuse` replaces the module by this `nn.Conv2d`.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the kernels, in pixels; odd.
        stride: stride of all branches, in pixels.
        groups: number of groups in all convolutions.
        branches: number of convolutions with this kernel size, MobileOne's k.
        identity: whether to add the branch `identity`; None adds it if the shape is unchanged.
        norm: creates a normalization layer from its number of channels.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer, `kernel_size` is even, or `identity` is True
            but the shape changes.

    >>> import torch
    >>> conv = RepConv(64, 64)
    >>> [name for name, _ in conv.named_children()]
    ['conv1', 'pointwise', 'identity']
    >>> conv(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        branches: int = 1,
        identity: bool | None = None,
        norm: MakeNorm = nn.BatchNorm2d,
    ) -> None:
        check_integer("branches", branches, 1)
        check_odd(kernel_size)
        keeps_shape = in_channels == out_channels and stride == 1
        if identity and not keeps_shape:
            raise ValueError("identity must be False or None if the shape changes, got True")
        super().__init__()
        sizes = {f"conv{i + 1}": kernel_size for i in range(branches)}
        if kernel_size > 1:
            sizes["pointwise"] = 1
        for name, size in sizes.items():
            shape = (in_channels, out_channels, size, stride)
            self.add_module(name, ConvNormAct(*shape, groups=groups, norm=norm, act=None))
        if keeps_shape if identity is None else identity:
            self.identity = norm(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Add the outputs of all branches."""
        return reduce(add, [branch(x) for branch in self.children()])


class RepConvAct(nn.Sequential):
    r"""$y = \phi(\mathrm{RepConv}(x))$, the block of RepVGG and MobileOne.

    The children are `conv`, `attention` if there is one, and `act`.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the kernels, in pixels; odd.
        stride: stride of the convolution, in pixels.
        groups: number of groups in the convolution.
        branches: number of convolutions with this kernel size, MobileOne's k.
        identity: whether the convolution adds its input; None means if the shape is unchanged.
        attention: creates a layer before the activation, such as `SE`, from its number of channels.
        act: creates the activation.
        deploy: build the form for inference: `conv` is an `nn.Conv2d` with a bias, which computes
            what the branches of a trained `RepConv` compute together.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: as in `RepConv`.

    >>> import torch
    >>> RepConvAct(64, 64, deploy=True).conv
    Conv2d(64, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> RepConvAct(64, 64)(torch.zeros(1, 64, 56, 56)).shape
    torch.Size([1, 64, 56, 56])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        branches: int = 1,
        identity: bool | None = None,
        attention: MakeAttention | None = None,
        act: Callable[[], nn.Module] = nn.ReLU,
        deploy: bool = False,
    ) -> None:
        super().__init__()
        shape = (in_channels, out_channels, kernel_size, stride)
        self.conv: nn.Module
        check_odd(kernel_size)
        if deploy:
            self.conv = ConvNormAct(*shape, groups=groups, norm=None, act=None).conv
        else:
            self.conv = RepConv(*shape, groups=groups, branches=branches, identity=identity)
        if attention is not None:
            self.attention = attention(out_channels)
        self.act = act()


def check_odd(kernel_size: int) -> None:
    """Raise ValueError unless a kernel has a center."""
    check_integer("kernel_size", kernel_size, 1)
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
