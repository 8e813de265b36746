"""VGG: stacks of 3x3 convolutions between pools (Simonyan and Zisserman, 2014)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_positive, check_probability
from cnnarch.blocks.conv import MakeNorm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import xavier_uniform_
from cnnarch.blocks.normalization import LRN
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.blocks.vgg import VGGBlock
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "VGG",
    "vgg11",
    "vgg11_bn",
    "vgg11_lrn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg16_c",
    "vgg19",
    "vgg19_bn",
]

BlockSizes = Sequence[tuple[int, int] | tuple[int, int, int]]


class VGGRow(NamedTuple):
    """The convolutions between two pools in Table 1.

    Args:
        depth: number of convolutions.
        channels: number of filters in each convolution, such as 256 for "conv3-256".
        last_kernel: side length of the last kernel; 1 for "conv1-256" in configuration C.
    """

    depth: int
    channels: int
    last_kernel: int = 3


class VGGConfig(NamedTuple):
    """A column of Table 1; later networks add BatchNorm after each convolution."""

    rows: tuple[VGGRow, ...]
    norm: MakeNorm | None = None
    lrn: bool = False


A = VGGConfig((VGGRow(1, 64), VGGRow(1, 128), VGGRow(2, 256), VGGRow(2, 512), VGGRow(2, 512)))
A_LRN = A._replace(lrn=True)
B = VGGConfig((VGGRow(2, 64), VGGRow(2, 128), VGGRow(2, 256), VGGRow(2, 512), VGGRow(2, 512)))
C = VGGConfig(
    (VGGRow(2, 64), VGGRow(2, 128), VGGRow(3, 256, 1), VGGRow(3, 512, 1), VGGRow(3, 512, 1))
)
D = VGGConfig((VGGRow(2, 64), VGGRow(2, 128), VGGRow(3, 256), VGGRow(3, 512), VGGRow(3, 512)))
E = VGGConfig((VGGRow(2, 64), VGGRow(2, 128), VGGRow(4, 256), VGGRow(4, 512), VGGRow(4, 512)))
A_BN, B_BN, D_BN, E_BN = (column._replace(norm=nn.BatchNorm2d) for column in (A, B, D, E))
HIDDEN = 4096  # units in each of the two hidden fully connected layers


class VGGOptions(CommonOptions, total=False):
    """Options of the VGG networks."""

    width: float


class VGG(ImageClassifier):
    """VGG network: blocks of 3x3 convolutions and a pool, then three fully connected layers.

    Pass other rows to build your own network: `VGG(((1, 16), (2, 32)), num_classes=10)`.
    Weights use Glorot initialization, which, according to the paper, makes its pre-training
    unnecessary (footnote in sec. 3.1). Biases are initialized to 0. An average pool to 7x7 before
    the fully connected layers has no effect at 224 pixels and, in the five-block networks, supports
    all sizes from 32 pixels up.

    Args:
        rows: depth and number of channels of each block, and the side length of its last kernel if
            it is not 3.
        norm: creates the normalization layer that follows a convolution, given its number of
            channels.
        lrn: whether local response normalization follows the first convolution, with the
            constants of the AlexNet paper (column A-LRN of Table 1).
        hidden: number of units in each of the two hidden fully connected layers.
        num_classes: number of logits; 0 returns the output of the second hidden layer.
        in_channels: number of channels in the input image.
        width: factor by which each convolution's number of channels is multiplied, greater than 0.
            The product is rounded down, but a layer has at least one channel. Fully connected
            layers are not scaled.
        dropout: probability of zeroing an output of either hidden layer, in [0, 1).
        small_images: pool only after the last three blocks; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `rows` is empty or contains values that are not positive integers, or `width` or
            `dropout` is out of range.
    """

    def __init__(
        self,
        rows: BlockSizes,
        norm: MakeNorm | None = None,
        lrn: bool = False,
        hidden: int = HIDDEN,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.5,
        small_images: bool = False,
    ) -> None:
        check_positive("width", width)
        check_probability("dropout", dropout)
        pools = min(len(rows), 3) if small_images else len(rows)
        stages = _blocks(rows, in_channels, width, norm, pools)
        stem = stages[0].pop(0)  # the first convolution, which belongs to the network's stem
        if lrn:
            stages[0].insert(0, LRN())
        head = _head(stages[-1].out_channels, hidden, num_classes, dropout)
        names = ("conv1_1", *(f"stage{i + 1}" for i in range(len(stages))))
        super().__init__(stem, stages, head, names=names, min_input_size=2**pools)


def _blocks(
    rows: BlockSizes, in_channels: int, width: float, norm: MakeNorm | None, pools: int
) -> list[VGGBlock]:
    """Return one block per row; only the last `pools` blocks have a pool."""
    if not rows or not all(2 <= len(row) <= 3 for row in rows):
        raise ValueError(f"rows must be pairs of depth and channels, got {rows!r}")
    blocks = []
    for i, row in enumerate(VGGRow(*row) for row in rows):
        check_integer("channels", row.channels, 1)
        channels = max(1, int(row.channels * width))
        kernel, pool = row.last_kernel, len(rows) - i <= pools
        blocks.append(
            VGGBlock(
                in_channels, channels, row.depth, last_kernel_size=kernel, norm=norm, pool=pool
            )
        )
        in_channels = channels
    return blocks


def _head(channels: int, units: int, num_classes: int, dropout: float) -> ClassifierHead:
    hidden = nn.Sequential()
    hidden.fc6 = _linear(channels * 7 * 7, units)
    hidden.act6 = nn.ReLU()
    hidden.dropout = nn.Dropout(dropout)
    hidden.fc7 = _linear(units, units)
    hidden.act7 = nn.ReLU()
    pool = AdaptiveAvgPool2d(7)
    return ClassifierHead(
        units, num_classes, pool=pool, hidden=hidden, dropout=dropout, make_classifier=_linear
    )


def _linear(in_features: int, out_features: int) -> nn.Linear:
    return xavier_uniform_(nn.Linear(in_features, out_features))


@builder
def vgg11(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-11: configuration A."""
    return build("vgg11", weights, VGG, *A, **options)


@builder
def vgg11_lrn(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 with local response normalization after its first convolution: A-LRN."""
    return build("vgg11_lrn", weights, VGG, *A_LRN, **options)


@builder
def vgg11_bn(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-11 with BatchNorm."""
    return build("vgg11_bn", weights, VGG, *A_BN, **options)


@builder
def vgg13(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-13: configuration B."""
    return build("vgg13", weights, VGG, *B, **options)


@builder
def vgg13_bn(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-13 with BatchNorm."""
    return build("vgg13_bn", weights, VGG, *B_BN, **options)


@builder
def vgg16_c(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 with 1x1 convolutions at the end of its last three blocks: configuration C."""
    return build("vgg16_c", weights, VGG, *C, **options)


@builder
def vgg16(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-16: configuration D."""
    return build("vgg16", weights, VGG, *D, **options)


@builder
def vgg16_bn(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-16 with BatchNorm."""
    return build("vgg16_bn", weights, VGG, *D_BN, **options)


@builder
def vgg19(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-19: configuration E."""
    return build("vgg19", weights, VGG, *E, **options)


@builder
def vgg19_bn(*, weights: WeightsSource = None, **options: Unpack[VGGOptions]) -> VGG:
    """VGG-19 with BatchNorm."""
    return build("vgg19_bn", weights, VGG, *E_BN, **options)
