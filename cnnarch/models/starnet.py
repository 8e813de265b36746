"""StarNet: elementwise multiplication of two projections as the nonlinearity (Ma et al., 2024)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.star import StarBlock, conv_norm
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["StarNet", "starnet_s1", "starnet_s2", "starnet_s3", "starnet_s4"]

NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
STEM_CHANNELS = 32


class StarNetRow(NamedTuple):
    """A row of Table 5: the first stage's width "embed" and the number of blocks in each stage."""

    embed: int
    depth: tuple[int, int, int, int]


S1 = StarNetRow(24, (2, 2, 8, 3))
S2 = StarNetRow(32, (1, 2, 6, 2))
S3 = StarNetRow(32, (2, 2, 8, 4))
S4 = StarNetRow(32, (3, 3, 12, 5))


class StarNetOptions(CommonOptions, total=False):
    """Options of the StarNets."""

    drop_path: float


class StarNet(ImageClassifier):
    """StarNet: 3x3 stem, four stages of `StarBlock`, pooled linear head.

    Each stage starts with a 3x3 convolution with stride 2 and has twice the channels of the stage
    before it. The last stage ends with BatchNorm. Weights are drawn from N(0, 0.02^2), as in the
    authors' code.

    Args:
        embed: number of channels in the first stage.
        depth: number of blocks in each stage.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the branch of the last block for an image in training,
            in [0, 1). The probability increases linearly from 0 in the first block.
        small_images: use stride 1 in the stem and the first stage; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depth` does not have four entries, a stage is empty, or `dropout` or
            `drop_path` is out of range.
    """

    def __init__(
        self,
        embed: int,
        depth: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_length("depth", depth, 4)
        for blocks in depth:
            check_integer("depth of a stage", blocks, 1)
        stem = conv_norm(in_channels, STEM_CHANNELS, 3, 1 if small_images else 2)
        stem.act = nn.ReLU6()
        channels = STEM_CHANNELS
        stages: list[Stage] = []
        for i, rates in enumerate(drop_path_rates(drop_path, depth)):
            width = embed * 2**i
            downsample = conv_norm(channels, width, 3, 2)
            units = [StarBlock(width, drop_path=rate) for rate in rates]
            stages.append(Stage(*units, downsample=downsample))
            channels = width
        stages[-1].add_module("norm", nn.BatchNorm2d(channels))
        if small_images:
            remove_stride(stages[0][0])
        head = ClassifierHead(channels, num_classes, dropout=dropout, make_classifier=_classifier)
        super().__init__(stem, stages, head, names=NAMES)


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    return normal_(nn.Linear(num_features, num_classes), 0.02)


@builder
def starnet_s1(*, weights: WeightsSource = None, **options: Unpack[StarNetOptions]) -> StarNet:
    """StarNet-S1: 24 to 192 channels, 15 blocks."""
    return build("starnet_s1", weights, StarNet, *S1, **options)


@builder
def starnet_s2(*, weights: WeightsSource = None, **options: Unpack[StarNetOptions]) -> StarNet:
    """StarNet-S2: 32 to 256 channels, 11 blocks."""
    return build("starnet_s2", weights, StarNet, *S2, **options)


@builder
def starnet_s3(*, weights: WeightsSource = None, **options: Unpack[StarNetOptions]) -> StarNet:
    """StarNet-S3: 32 to 256 channels, 16 blocks."""
    return build("starnet_s3", weights, StarNet, *S3, **options)


@builder
def starnet_s4(*, weights: WeightsSource = None, **options: Unpack[StarNetOptions]) -> StarNet:
    """StarNet-S4: 32 to 256 channels, 23 blocks."""
    return build("starnet_s4", weights, StarNet, *S4, **options)
