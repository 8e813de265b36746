"""Deep Layer Aggregation: stages that merge the outputs of all their blocks (Yu et al., 2017)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_length
from cnnarch.blocks.aggregation import AggregationTree, MakeBlock, max_pool
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.residual import Residual, ResidualSum
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "DLA",
    "dla34",
    "dla46_c",
    "dla46x_c",
    "dla60",
    "dla60x",
    "dla60x_c",
    "dla102",
    "dla102x",
    "dla102x2",
    "dla169",
]

NAMES = ("stage1", "stage2", "stage3", "stage4", "stage5", "stage6")


def pooled_projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return a shortcut: a max-pool, and a 1x1 convolution if the number of channels changes."""
    shortcut = nn.Sequential()
    if stride > 1:
        shortcut.pool = max_pool(stride)
    if in_channels != out_channels:
        shortcut.project = ConvNormAct(in_channels, out_channels, 1, act=None)
    return shortcut


def bottleneck(
    in_channels: int, channels: int, stride: int, *, ratio: float = 0.5, groups: int = 1
) -> ResidualSum:
    """Return a 1x1, 3x3 and 1x1 convolution with a shortcut; the 3x3 has ratio * channels."""
    width = int(ratio * channels)
    branch = nn.Sequential()
    branch.reduce = ConvNormAct(in_channels, width, 1)
    branch.conv = ConvNormAct(width, width, 3, stride, groups=groups)
    branch.expand = ConvNormAct(width, channels, 1, act=None)
    return ResidualSum(branch, in_channels, channels, stride, make_shortcut=pooled_projection)


BASIC = partial(Residual, make_shortcut=pooled_projection)
SPLIT = partial(bottleneck, ratio=1, groups=32)
SPLIT_64 = partial(bottleneck, ratio=2, groups=64)


class DLARow(NamedTuple):
    """A row of Table 1.

    Args:
        block: creates a block from input channels, output channels and stride.
        levels: depth of the trees in stages 3 to 6. A tree has 2^depth blocks.
        channels: number of output channels of stages 1 to 6.
        residual: whether the nodes of the trees add their first input.
    """

    block: MakeBlock
    levels: tuple[int, ...]
    channels: tuple[int, ...]
    residual: bool = False


COMPACT = (16, 32, 64, 64, 128, 256)
WIDE = (16, 32, 128, 256, 512, 1024)
DLA_34 = DLARow(BASIC, (1, 2, 2, 1), (16, 32, 64, 128, 256, 512))
DLA_46_C = DLARow(bottleneck, (1, 2, 2, 1), COMPACT)
DLA_X_46_C = DLARow(SPLIT, (1, 2, 2, 1), COMPACT)
DLA_60 = DLARow(bottleneck, (1, 2, 3, 1), WIDE)
DLA_X_60 = DLARow(SPLIT, (1, 2, 3, 1), WIDE)
DLA_X_60_C = DLARow(SPLIT, (1, 2, 3, 1), COMPACT)
DLA_102 = DLARow(bottleneck, (1, 3, 4, 1), WIDE, residual=True)
DLA_X_102 = DLARow(SPLIT, (1, 3, 4, 1), WIDE, residual=True)
DLA_X2_102 = DLARow(SPLIT_64, (1, 3, 4, 1), WIDE, residual=True)
DLA_169 = DLARow(bottleneck, (2, 3, 5, 1), WIDE, residual=True)


class DLA(ImageClassifier):
    """Deep layer aggregation: three convolutions, four trees, pooled linear head.

    The trees are `AggregationTree` modules. The stem, stage 1, has stride 1. Each other stage
    halves the map. From stage 4, the last node of a stage also merges the stage's max-pooled
    input, which aggregates the stages. The paper does not specify the initialization; this network
    uses He initialization.

    Args:
        row: the network's row of Table 1.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in stages 2 and 3; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `row` does not have four depths and six numbers of channels, one of them is
            not a positive integer, or `dropout` is out of range.
    """

    def __init__(
        self,
        row: DLARow,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_length("levels", row.levels, 4)
        check_length("channels", row.channels, 6)
        first, second, *widths = row.channels
        early_stride = 1 if small_images else 2
        stem = nn.Sequential()
        stem.conv1 = ConvNormAct(in_channels, first, 7)
        stem.conv2 = ConvNormAct(first, first, 3)
        stages = [Stage(ConvNormAct(first, second, 3, early_stride))]
        channels = second
        for i, (levels, width) in enumerate(zip(row.levels, widths, strict=True)):
            tree = AggregationTree(
                levels,
                row.block,
                channels,
                width,
                2 if i else early_stride,
                merge_input=i > 0,
                residual=row.residual,
            )
            stages.append(Stage(tree))
            channels = width
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=NAMES)


@builder
def dla34(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-34: blocks of two 3x3 convolutions, 64 to 512 channels."""
    return build("dla34", weights, DLA, DLA_34, **options)


@builder
def dla46_c(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-46-C: bottlenecks, compact with 64 to 256 channels."""
    return build("dla46_c", weights, DLA, DLA_46_C, **options)


@builder
def dla46x_c(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-X-46-C: bottlenecks with 32 groups, compact with 64 to 256 channels."""
    return build("dla46x_c", weights, DLA, DLA_X_46_C, **options)


@builder
def dla60(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-60: bottlenecks, 128 to 1024 channels."""
    return build("dla60", weights, DLA, DLA_60, **options)


@builder
def dla60x(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-X-60: bottlenecks with 32 groups, 128 to 1024 channels."""
    return build("dla60x", weights, DLA, DLA_X_60, **options)


@builder
def dla60x_c(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-X-60-C: bottlenecks with 32 groups, compact with 64 to 256 channels."""
    return build("dla60x_c", weights, DLA, DLA_X_60_C, **options)


@builder
def dla102(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-102: bottlenecks, 128 to 1024 channels, residual nodes."""
    return build("dla102", weights, DLA, DLA_102, **options)


@builder
def dla102x(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-X-102: bottlenecks with 32 groups, 128 to 1024 channels, residual nodes."""
    return build("dla102x", weights, DLA, DLA_X_102, **options)


@builder
def dla102x2(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-X-102 with 64 groups, 128 to 1024 channels, residual nodes; from the authors' code."""
    return build("dla102x2", weights, DLA, DLA_X2_102, **options)


@builder
def dla169(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DLA:
    """DLA-169: bottlenecks, 128 to 1024 channels, residual nodes, and actually 165 layers."""
    return build("dla169", weights, DLA, DLA_169, **options)
