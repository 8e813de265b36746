"""Wide ResNets for 32x32 images: wide pre-activation blocks (Zagoruyko and Komodakis, 2016)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.preactivation import PreActResidual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import BranchOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models.resnet_cifar import WIDTHS

__all__ = [
    "CifarWideResNet",
    "wrn16_8_cifar",
    "wrn28_10_cifar",
    "wrn40_4_cifar",
]

ROWS = ("conv1", "conv2", "conv3", "conv4")  # Table 1
MIN_DEPTH = 10  # with one block per stage


class WRNRow(NamedTuple):
    """A row of Table 5: the number of layers and the widening factor k."""

    depth: int
    k: int


WRN_40_4 = WRNRow(40, 4)
WRN_16_8 = WRNRow(16, 8)
WRN_28_10 = WRNRow(28, 10)


class CifarWideResNet(ResidualNetwork):
    """Wide ResNet for 32x32 images: a 3x3 convolution and three stages of n wide blocks.

    The last stage ends with the BN and ReLU that follow the last sum. Projections have no norm.

    Args:
        depth: number of convolutions, 6n + 4: the stem, 2n in each stage, and three projections.
        k: widening factor; the stages have 16k, 32k and 64k channels.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value between the two convolutions of a block, in [0, 1).
            The paper uses 0.3 for CIFAR.
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `depth` is not 6n + 4, `k` is not a positive integer, or `dropout` is out of
            range.

    >>> len(CifarWideResNet(16, 1).stages[0])
    2
    """

    def __init__(
        self,
        depth: int,
        k: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        check_integer("depth", depth, MIN_DEPTH)
        check_integer("k", k, 1)
        n, rest = divmod(depth - 4, 6)
        if rest:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth}")
        super().__init__(
            ConvNormAct(in_channels, WIDTHS[0], 3, bias=False, norm=None, act=None),
            partial(PreActResidual, dropout=dropout),
            tuple(k * width for width in WIDTHS),
            (n, n, n),
            names=ROWS,
            final_norm=nn.BatchNorm2d,
            num_classes=num_classes,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def wrn16_8_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarWideResNet:
    """WRN-16-8 for 32x32 images: 16 layers, 8 times as wide."""
    return build("wrn16_8_cifar", weights, CifarWideResNet, *WRN_16_8, **options)


@builder
def wrn28_10_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarWideResNet:
    """WRN-28-10 for 32x32 images: 28 layers, 10 times as wide."""
    return build("wrn28_10_cifar", weights, CifarWideResNet, *WRN_28_10, **options)


@builder
def wrn40_4_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarWideResNet:
    """WRN-40-4 for 32x32 images: 40 layers, 4 times as wide."""
    return build("wrn40_4_cifar", weights, CifarWideResNet, *WRN_40_4, **options)
