"""SqueezeNet: AlexNet's accuracy with 50 times fewer parameters (Iandola et al., 2016)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.fire import Fire
from cnnarch.blocks.initialization import he_fan_in_, normal_
from cnnarch.blocks.nin import ScoreMapHead
from cnnarch.blocks.pooling import caffe_max_pool
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["SqueezeNet", "squeezenet1_0", "squeezenet1_1"]


class FireRow(NamedTuple):
    """A module of Table 1: the columns "s1x1", "e1x1" and "e3x3"."""

    squeeze: int
    expand1x1: int
    expand3x3: int


class FirstConv(NamedTuple):
    """The row "conv1" of Table 1; its stride is 2."""

    filters: int
    kernel_size: int


FIRE2_TO_3 = (FireRow(16, 64, 64),) * 2
FIRE4_TO_5 = (FireRow(32, 128, 128),) * 2
FIRE6_TO_7 = (FireRow(48, 192, 192),) * 2
FIRE8_TO_9 = (FireRow(64, 256, 256),) * 2

V1_0 = (*FIRE2_TO_3, FIRE4_TO_5[0]), (FIRE4_TO_5[1], *FIRE6_TO_7, FIRE8_TO_9[0]), FIRE8_TO_9[1:]
V1_1 = FIRE2_TO_3, FIRE4_TO_5, (*FIRE6_TO_7, *FIRE8_TO_9)
"""The fire modules after each of the three max-pools."""


class SqueezeNet(ImageClassifier):
    """SqueezeNet: a convolution, eight fire modules, and the average of one score map per class.

    Pools work as in Caffe: windows start at the first pixel, and the last may be truncated. A
    ReLU precedes the average of the class scores, so logits are never negative. The paper does not
    specify the initialization. Weights are drawn from N(0, 2 / fan_in), and the classifier's from
    N(0, 0.01^2), as in the authors' released configuration.

    Args:
        conv1: filters and kernel of the first convolution.
        stages: for each of the three stages, the rows of its fire modules. Each stage starts with
            a max-pool.
        num_classes: number of logits; 0 returns the average of the last map.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value of the last map, in [0, 1).
        small_images: use a 3x3 stem with stride 1; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 4, 8 and 16.

    Raises:
        ValueError: `stages` does not consist of three non-empty stages, or a count or `dropout`
            is out of range.
    """

    def __init__(
        self,
        conv1: FirstConv,
        stages: Sequence[Sequence[FireRow]],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.5,
        small_images: bool = False,
    ) -> None:
        check_length("stages", stages, 3)
        channels, kernel_size = conv1
        check_integer("kernel_size", kernel_size, 1)
        if small_images:
            stem = ConvNormAct(in_channels, channels, 3, norm=None)
        else:
            stem = ConvNormAct(in_channels, channels, kernel_size, 2, padding=0, norm=None)
        he_fan_in_(stem.conv)
        parts, names, number = [], ["conv1"], 2
        for rows in stages:
            check_integer("depth of a stage", len(rows), 1)
            stage = Stage(pool=caffe_max_pool())
            for row in rows:
                fire = Fire(channels, *row)
                stage.append(fire)
                channels = fire.out_channels
            parts.append(stage)
            last = number + len(rows) - 1
            names.append(f"fire{number}" if last == number else f"fire{number}-{last}")
            number = last + 1
        head = ScoreMapHead(channels, num_classes, dropout=dropout, make_classifier=_conv10)
        # Each pool needs two pixels. conv1 is not padded.
        min_size = 8 if small_images else 2 * (8 - 1) + kernel_size
        super().__init__(stem, parts, head, names=names, min_input_size=min_size)


def _conv10(num_features: int, num_classes: int) -> nn.Conv2d:
    return normal_(nn.Conv2d(num_features, num_classes, 1), 0.01)


@builder
def squeezenet1_0(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> SqueezeNet:
    """SqueezeNet as in the paper: a 7x7 stem, pools after conv1, fire4 and fire8."""
    return build("squeezenet1_0", weights, SqueezeNet, FirstConv(96, 7), V1_0, **options)


@builder
def squeezenet1_1(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> SqueezeNet:
    """SqueezeNet 1.1: a 3x3 stem and earlier pools, 2.4 times fewer multiply-adds than 1.0."""
    return build("squeezenet1_1", weights, SqueezeNet, FirstConv(64, 3), V1_1, **options)
