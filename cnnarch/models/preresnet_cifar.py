"""Pre-activation ResNets for 32x32 images: up to 1001 layers (He et al., 2016)."""

from functools import partial
from typing import Literal, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.preactivation import PreActBottleneck, PreActResidual, PreActSum
from cnnarch.blocks.shortcut import MakeShortcut, ZeroPadShortcut, linear_projection
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import BranchOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models.resnet_cifar import ROWS, WIDTHS, CifarResNetOptions

__all__ = [
    "CifarPreBottleneckNet",
    "CifarPreResNet",
    "preresnet110_cifar",
    "preresnet164_cifar",
    "preresnet1001_cifar",
]

SHORTCUTS: dict[str, MakeShortcut] = {"A": ZeroPadShortcut, "B": linear_projection}


class BasicOptions(CifarResNetOptions, total=False):
    """Options of the networks with two-convolution blocks."""

    activate_first: bool


class BottleneckOptions(BranchOptions, total=False):
    """Options of the networks with bottlenecks."""

    stride_in_1x1: bool


class CifarPreResNet(ResidualNetwork):
    """Pre-activation ResNet for 32x32 images: a 3x3 convolution, three stages of n basic blocks.

    The last stage ends with the BN and ReLU that follow the last sum.

    Args:
        n: number of blocks per stage; the network has 6n + 2 layers with weights.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        shortcut: the shortcut in blocks that change the shape. "A" subsamples and pads with zeros;
            "B" is a 1x1 convolution.
        activate_first: whether the first block's shortcut carries the activated map, as in the
            paper, or the output of the first convolution, as in pytorchcv.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer, or `shortcut` is unknown.
    """

    def __init__(
        self,
        n: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        shortcut: Literal["A", "B"] = "A",
        activate_first: bool = True,
    ) -> None:
        check_integer("n", n, 1)
        super().__init__(
            first_convolution(in_channels),
            partial(PreActResidual, make_shortcut=SHORTCUTS[shortcut]),
            WIDTHS,
            (n, n, n),
            names=ROWS,
            final_norm=nn.BatchNorm2d,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )
        first = next(module for module in self.modules() if isinstance(module, PreActSum))
        first.activate_first = activate_first


class CifarPreBottleneckNet(ResidualNetwork):
    """Pre-activation ResNet for 32x32 images: a 3x3 convolution, three stages of n bottlenecks.

    The last stage ends with the BN and ReLU that follow the last sum.

    Args:
        n: number of blocks per stage; the network has 9n + 2 layers with weights.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        stride_in_1x1: whether a bottleneck has its stride in the first 1x1, as in the authors'
            code, rather than in the 3x3.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer.
    """

    def __init__(
        self,
        n: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        stride_in_1x1: bool = True,
    ) -> None:
        check_integer("n", n, 1)
        super().__init__(
            first_convolution(in_channels),
            partial(PreActBottleneck, stride_in_1x1=stride_in_1x1),
            WIDTHS,
            (n, n, n),
            names=ROWS,
            final_norm=nn.BatchNorm2d,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


def first_convolution(in_channels: int) -> ConvNormAct:
    """Return the stem: only a convolution, because the first block starts with BN and ReLU."""
    return ConvNormAct(in_channels, WIDTHS[0], 3, bias=False, norm=None, act=None)


@builder
def preresnet110_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BasicOptions]
) -> CifarPreResNet:
    """Pre-activation ResNet-110 for 32x32 images: two-convolution blocks, n = 18."""
    return build("preresnet110_cifar", weights, CifarPreResNet, 18, **options)


@builder
def preresnet164_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BottleneckOptions]
) -> CifarPreBottleneckNet:
    """Pre-activation ResNet-164 for 32x32 images: bottlenecks, n = 18."""
    return build("preresnet164_cifar", weights, CifarPreBottleneckNet, 18, **options)


@builder
def preresnet1001_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BottleneckOptions]
) -> CifarPreBottleneckNet:
    """Pre-activation ResNet-1001 for 32x32 images: bottlenecks, n = 111."""
    return build("preresnet1001_cifar", weights, CifarPreBottleneckNet, 111, **options)
