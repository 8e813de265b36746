"""DenseNets for 32x32 images: three dense blocks, DenseNet or DenseNet-BC (Huang et al., 2016)."""

from typing import NamedTuple, Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.dense_stages import dense_stages
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DropoutOptions
from cnnarch.facts.builders import builder

__all__ = [
    "CifarDenseNet",
    "densenet_40_12_cifar",
    "densenet_100_12_cifar",
    "densenet_100_24_cifar",
    "densenet_bc_40_12_cifar",
    "densenet_bc_100_12_cifar",
    "densenet_bc_190_40_cifar",
    "densenet_bc_250_24_cifar",
]

BLOCKS = 3
STEM_CHANNELS = 16  # without BC; the stem of DenseNet-BC has twice the growth rate


class CifarDenseNetConfig(NamedTuple):
    """A row of Table 2: the depth L, the growth rate k, and whether it is a DenseNet-BC."""

    depth: int
    k: int
    bc: bool = False


DENSENET_40_12 = CifarDenseNetConfig(40, 12)
DENSENET_100_12 = CifarDenseNetConfig(100, 12)
DENSENET_100_24 = CifarDenseNetConfig(100, 24)
DENSENET_BC_40_12 = CifarDenseNetConfig(40, 12, bc=True)
DENSENET_BC_100_12 = CifarDenseNetConfig(100, 12, bc=True)
DENSENET_BC_250_24 = CifarDenseNetConfig(250, 24, bc=True)
DENSENET_BC_190_40 = CifarDenseNetConfig(190, 40, bc=True)


class CifarDenseNet(ImageClassifier):
    """DenseNet for 32x32 images: a 3x3 convolution and three dense blocks of equal depth (sec. 3).

    The stem is only a convolution because the first dense layer starts with BN and ReLU.
    Convolutions use He initialization, as in sec. 4.2.

    Args:
        depth: number of layers with weights, the paper's L: 3n + 4 with n layers per dense block,
            or 6n + 4 for DenseNet-BC, whose layers have two convolutions.
        growth_rate: number of channels that each layer adds, the paper's k.
        bc: whether to build a DenseNet-BC, which has 1x1 convolutions to 4k channels before the 3x3
            ones and transitions that keep half of the channels.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value after each convolution except the stem, in [0, 1).
            The paper uses 0.2 when it trains without augmentation.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `depth` is not 3n + 4 or 6n + 4, a count is not a positive integer, or
            `dropout` is out of range.

    >>> sum(p.numel() for p in CifarDenseNet(40, 12, bc=True).parameters())
    176122
    """

    def __init__(
        self,
        depth: int,
        growth_rate: int,
        bc: bool = False,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
    ) -> None:
        check_integer("depth", depth, 1)
        check_integer("growth_rate", growth_rate, 1)
        step = 2 * BLOCKS if bc else BLOCKS
        layers, rest = divmod(depth - 4, step)
        if layers < 1 or rest:
            raise ValueError(f"depth must be {step}n + 4 with n >= 1, got {depth}")
        channels = 2 * growth_rate if bc else STEM_CHANNELS
        stem = ConvNormAct(in_channels, channels, 3, bias=False, norm=None, act=None)
        stages, channels = dense_stages(
            channels,
            (layers,) * BLOCKS,
            growth_rate,
            bottleneck=4 if bc else None,
            compression=0.5 if bc else 1.0,
            dropout=dropout,
        )
        super().__init__(
            stem,
            stages,
            ClassifierHead(channels, num_classes),
            names=("conv1", "dense_block_1", "dense_block_2", "dense_block_3"),
            min_input_size=4,  # each of the two transitions halves the map
        )


@builder
def densenet_40_12_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet with L = 40, k = 12 for 32x32 images."""
    return build("densenet_40_12_cifar", weights, CifarDenseNet, *DENSENET_40_12, **options)


@builder
def densenet_100_12_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet with L = 100, k = 12 for 32x32 images."""
    return build("densenet_100_12_cifar", weights, CifarDenseNet, *DENSENET_100_12, **options)


@builder
def densenet_100_24_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet with L = 100, k = 24 for 32x32 images."""
    return build("densenet_100_24_cifar", weights, CifarDenseNet, *DENSENET_100_24, **options)


@builder
def densenet_bc_40_12_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet-BC with L = 40, k = 12 for 32x32 images; Table 2 lists L = 40 only without BC."""
    return build("densenet_bc_40_12_cifar", weights, CifarDenseNet, *DENSENET_BC_40_12, **options)


@builder
def densenet_bc_100_12_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet-BC with L = 100, k = 12 for 32x32 images."""
    return build("densenet_bc_100_12_cifar", weights, CifarDenseNet, *DENSENET_BC_100_12, **options)


@builder
def densenet_bc_250_24_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet-BC with L = 250, k = 24 for 32x32 images."""
    return build("densenet_bc_250_24_cifar", weights, CifarDenseNet, *DENSENET_BC_250_24, **options)


@builder
def densenet_bc_190_40_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarDenseNet:
    """DenseNet-BC with L = 190, k = 40 for 32x32 images."""
    return build("densenet_bc_190_40_cifar", weights, CifarDenseNet, *DENSENET_BC_190_40, **options)
