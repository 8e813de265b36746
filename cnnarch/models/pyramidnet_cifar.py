"""PyramidNets for 32x32 images: the width grows in every block (Han et al., 2016).

The rounding of the widths and the average in the shortcuts follow the authors' code (repository
jhkim89/PyramidNet).
"""

from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.pyramid import PyramidBottleneck, PyramidResidual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import BranchOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder

__all__ = [
    "CifarPyramidNet",
    "pyramidnet110_a48_cifar",
    "pyramidnet110_a84_cifar",
    "pyramidnet110_a270_cifar",
    "pyramidnet164_a270_bn_cifar",
    "pyramidnet200_a240_bn_cifar",
    "pyramidnet236_a220_bn_cifar",
    "pyramidnet272_a200_bn_cifar",
]

ROWS = ("conv1", "conv2", "conv3", "conv4")  # Table 1
FIRST_WIDTH = 16
STAGES = 3


class PyramidRow(NamedTuple):
    """A row of Table 4.

    Args:
        n: number of blocks per stage. The network has 6n + 2 layers, or 9n + 2 with bottlenecks.
        alpha: the widening factor: the sum of what all blocks add to the width.
    """

    n: int
    alpha: int


ROW_110_A48 = PyramidRow(18, 48)
ROW_110_A84 = PyramidRow(18, 84)
ROW_110_A270 = PyramidRow(18, 270)
ROW_164_A270 = PyramidRow(18, 270)
ROW_200_A240 = PyramidRow(22, 240)
ROW_236_A220 = PyramidRow(26, 220)
ROW_272_A200 = PyramidRow(30, 200)


def pyramid_widths(n: int, alpha: int) -> list[list[int]]:
    r"""Return the width of each block by stage: $16 + k \alpha / N$, rounded, for block k of N.

    Only the result is rounded, so fractions add up from block to block, as in the authors' code.

    >>> pyramid_widths(2, 10)
    [[18, 19], [21, 23], [24, 26]]
    """
    total = STAGES * n
    widths = [round(FIRST_WIDTH + k * alpha / total) for k in range(1, total + 1)]
    return [widths[i : i + n] for i in range(0, total, n)]


class CifarPyramidNet(ResidualNetwork):
    """PyramidNet for 32x32 images: a 3x3 stem and three stages of n blocks of growing width.

    The stem has no activation, because the first block starts with a norm. The last stage ends
    with the BN and ReLU that follow the last sum.

    In eval mode, an untrained network returns logits of up to 1e10: with BatchNorm's initial
    statistics, the maps grow in each block. Load weights, train the network, or set the statistics
    with `cnnarch.testing.calibrate` before you evaluate it.

    Args:
        block: `PyramidResidual` (two 3x3) or `PyramidBottleneck` (1x1, 3x3, 1x1).
        n: number of blocks per stage.
        alpha: number of channels that all blocks together add to the width of 16. The output of a
            bottleneck is four times as wide.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer, or `alpha` is a negative number.
    """

    def __init__(
        self,
        block: type[PyramidResidual | PyramidBottleneck],
        n: int,
        alpha: int,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        check_integer("n", n, 1)
        check_integer("alpha", alpha, 0)
        super().__init__(
            ConvNormAct(in_channels, FIRST_WIDTH, 3, act=None),
            block,
            pyramid_widths(n, alpha),
            (n, n, n),
            names=ROWS,
            final_norm=nn.BatchNorm2d,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def pyramidnet110_a48_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-110 for 32x32 images: two-convolution blocks, alpha = 48."""
    return build(
        "pyramidnet110_a48_cifar",
        weights,
        CifarPyramidNet,
        PyramidResidual,
        *ROW_110_A48,
        **options,
    )


@builder
def pyramidnet110_a84_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-110 for 32x32 images: two-convolution blocks, alpha = 84."""
    return build(
        "pyramidnet110_a84_cifar",
        weights,
        CifarPyramidNet,
        PyramidResidual,
        *ROW_110_A84,
        **options,
    )


@builder
def pyramidnet110_a270_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-110 for 32x32 images: two-convolution blocks, alpha = 270."""
    return build(
        "pyramidnet110_a270_cifar",
        weights,
        CifarPyramidNet,
        PyramidResidual,
        *ROW_110_A270,
        **options,
    )


@builder
def pyramidnet164_a270_bn_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-164 for 32x32 images: bottlenecks, alpha = 270."""
    return build(
        "pyramidnet164_a270_bn_cifar",
        weights,
        CifarPyramidNet,
        PyramidBottleneck,
        *ROW_164_A270,
        **options,
    )


@builder
def pyramidnet200_a240_bn_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-200 for 32x32 images: bottlenecks, alpha = 240."""
    return build(
        "pyramidnet200_a240_bn_cifar",
        weights,
        CifarPyramidNet,
        PyramidBottleneck,
        *ROW_200_A240,
        **options,
    )


@builder
def pyramidnet236_a220_bn_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-236 for 32x32 images: bottlenecks, alpha = 220."""
    return build(
        "pyramidnet236_a220_bn_cifar",
        weights,
        CifarPyramidNet,
        PyramidBottleneck,
        *ROW_236_A220,
        **options,
    )


@builder
def pyramidnet272_a200_bn_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarPyramidNet:
    """PyramidNet-272 for 32x32 images: bottlenecks, alpha = 200."""
    return build(
        "pyramidnet272_a200_bn_cifar",
        weights,
        CifarPyramidNet,
        PyramidBottleneck,
        *ROW_272_A200,
        **options,
    )
