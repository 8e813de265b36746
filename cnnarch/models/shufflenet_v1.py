"""ShuffleNet: grouped 1x1 convolutions and a channel shuffle (Zhang et al., 2017)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.shuffle import ShuffleUnit
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "ShuffleNetV1",
    "shufflenet_v1_g1",
    "shufflenet_v1_g2",
    "shufflenet_v1_g3",
    "shufflenet_v1_g4",
    "shufflenet_v1_g8",
]

NAMES = ("conv1", "stage2", "stage3", "stage4")
CONV1_CHANNELS = 24
DEPTHS = (4, 8, 4)  # units in each stage, of which the first has stride 2


class ShuffleNetV1Row(NamedTuple):
    """A column of Table 1: the number of groups and the output channels of stages 2 to 4."""

    groups: int
    channels: tuple[int, int, int]


G1 = ShuffleNetV1Row(1, (144, 288, 576))
G2 = ShuffleNetV1Row(2, (200, 400, 800))
G3 = ShuffleNetV1Row(3, (240, 480, 960))
G4 = ShuffleNetV1Row(4, (272, 544, 1088))
G8 = ShuffleNetV1Row(8, (384, 768, 1536))


class ShuffleNetV1(ImageClassifier):
    """ShuffleNet: 3x3 stem, three stages of `ShuffleUnit`, pooled linear head.

    Each stage starts with a unit of stride 2, the first one after a max-pool. The first 1x1
    convolution is not grouped, because it has few input channels. The paper does not specify the
    initialization; this network uses He initialization.

    Args:
        groups: number of groups in the 1x1 convolutions.
        channels: number of output channels of each stage.
        depths: number of units in each stage.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 8, 16 and 32.

    Raises:
        ValueError: `channels` or `depths` does not have three entries, a stage is empty, `groups`
            does not divide a number of channels, or `dropout` is out of range.
    """

    def __init__(
        self,
        groups: int,
        channels: Sequence[int],
        depths: Sequence[int] = DEPTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        def make_unit(in_channels: int, channels: int, stride: int) -> ShuffleUnit:
            # conv1 has too few channels to be grouped.
            first = 1 if in_channels == CONV1_CHANNELS else groups
            return ShuffleUnit(in_channels, channels, stride, groups=groups, first_groups=first)

        stages = shuffle_stages(make_unit, channels, depths, small_images)
        super().__init__(
            conv1(in_channels, small_images),
            stages,
            ClassifierHead(channels[-1], num_classes, dropout=dropout),
            names=NAMES,
        )


def conv1(in_channels: int, small_images: bool) -> ConvNormAct:
    """Return the first convolution of both ShuffleNets."""
    return ConvNormAct(in_channels, CONV1_CHANNELS, 3, 1 if small_images else 2)


def shuffle_stages(
    make_unit: Callable[[int, int, int], nn.Module],
    channels: Sequence[int],
    depths: Sequence[int],
    small_images: bool,
) -> list[Stage]:
    """Return stages 2 to 4 of both ShuffleNets, each of which starts with a unit of stride 2.

    Args:
        make_unit: builds a unit from its input channels, output channels and stride.
        channels: number of output channels of each stage.
        depths: number of units in each stage.
        small_images: omit the max-pool at the start of stage 2.

    Raises:
        ValueError: `channels` or `depths` does not have three entries, or a stage is empty.
    """
    check_length("channels", channels, 3)
    check_length("depths", depths, 3)
    width, stages = CONV1_CHANNELS, list[Stage]()
    for out_channels, depth in zip(channels, depths, strict=True):
        check_integer("depth of a stage", depth, 1)
        has_pool = not stages and not small_images
        stage = Stage(pool=nn.MaxPool2d(3, 2, 1)) if has_pool else Stage()
        for i in range(depth):
            stage.append(make_unit(width, out_channels, 1 if i else 2))
            width = out_channels
        stages.append(stage)
    return stages


@builder
def shufflenet_v1_g1(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV1:
    """ShuffleNet 1x with full 1x1 convolutions."""
    return build("shufflenet_v1_g1", weights, ShuffleNetV1, *G1, **options)


@builder
def shufflenet_v1_g2(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV1:
    """ShuffleNet 1x with 2 groups in the 1x1 convolutions."""
    return build("shufflenet_v1_g2", weights, ShuffleNetV1, *G2, **options)


@builder
def shufflenet_v1_g3(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV1:
    """ShuffleNet 1x with 3 groups in the 1x1 convolutions."""
    return build("shufflenet_v1_g3", weights, ShuffleNetV1, *G3, **options)


@builder
def shufflenet_v1_g4(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV1:
    """ShuffleNet 1x with 4 groups in the 1x1 convolutions."""
    return build("shufflenet_v1_g4", weights, ShuffleNetV1, *G4, **options)


@builder
def shufflenet_v1_g8(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV1:
    """ShuffleNet 1x with 8 groups in the 1x1 convolutions."""
    return build("shufflenet_v1_g8", weights, ShuffleNetV1, *G8, **options)
