"""DenseNet: each layer takes the maps of all preceding layers as input (Huang et al., 2016)."""

from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.dense_stages import dense_stages
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "DenseNet",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "densenet264",
]


class DenseNetConfig(NamedTuple):
    """A column of Table 1: the growth rate k and the number of layers in each dense block."""

    k: int
    depths: tuple[int, int, int, int]


DENSENET_121 = DenseNetConfig(32, (6, 12, 24, 16))
DENSENET_169 = DenseNetConfig(32, (6, 12, 32, 32))
DENSENET_201 = DenseNetConfig(32, (6, 12, 48, 32))
DENSENET_161 = DenseNetConfig(48, (6, 12, 36, 24))
DENSENET_264 = DenseNetConfig(32, (6, 12, 64, 48))


class DenseNet(ImageClassifier):
    """DenseNet-BC: 7x7 stem, dense blocks with transitions between them, pooled linear head.

    Convolutions use He initialization, as in sec. 4.2.

    Args:
        growth_rate: number of channels that each layer adds, the paper's k; the stem has twice as
            many.
        depths: number of layers in each dense block.
        bottleneck: width of a layer's 1x1 convolution as a multiple of the growth rate; None omits
            the convolution.
        compression: fraction of its input channels that a transition keeps, the paper's theta.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value after each convolution except the stem, in [0, 1).
            The paper uses 0.2 when it trains without augmentation.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: a count is not a positive integer, or `compression` or `dropout` is out of
            range.
    """

    def __init__(
        self,
        growth_rate: int,
        depths: tuple[int, ...],
        bottleneck: int | None = 4,
        compression: float = 0.5,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_integer("growth_rate", growth_rate, 1)
        stem = conv_7x7(in_channels, 2 * growth_rate, small_images)
        stages, channels = dense_stages(
            2 * growth_rate,
            depths,
            growth_rate,
            bottleneck=bottleneck,
            compression=compression,
            dropout=dropout,
            pool=None if small_images else nn.MaxPool2d(3, 2, 1),
        )
        head = ClassifierHead(channels, num_classes)
        # The n - 1 transitions halve the map and round down. The stem and the pool round up.
        halved = 2 ** (len(depths) - 1)
        super().__init__(
            stem,
            stages,
            head,
            names=("conv", *(f"dense_block_{i + 1}" for i in range(len(depths)))),
            min_input_size=halved if small_images else 4 * halved - 3,
        )


@builder
def densenet121(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DenseNet:
    """DenseNet-121: growth rate 32, depths (6, 12, 24, 16)."""
    return build("densenet121", weights, DenseNet, *DENSENET_121, **options)


@builder
def densenet169(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DenseNet:
    """DenseNet-169: growth rate 32, depths (6, 12, 32, 32)."""
    return build("densenet169", weights, DenseNet, *DENSENET_169, **options)


@builder
def densenet201(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DenseNet:
    """DenseNet-201: growth rate 32, depths (6, 12, 48, 32)."""
    return build("densenet201", weights, DenseNet, *DENSENET_201, **options)


@builder
def densenet161(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DenseNet:
    """DenseNet-161: growth rate 48, depths (6, 12, 36, 24).

    It appears in the first version of the paper but not in the published one.
    """
    return build("densenet161", weights, DenseNet, *DENSENET_161, **options)


@builder
def densenet264(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DenseNet:
    """DenseNet-264: growth rate 32, depths (6, 12, 64, 48), which actually give 265 layers."""
    return build("densenet264", weights, DenseNet, *DENSENET_264, **options)
