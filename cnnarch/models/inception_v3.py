"""Inception v3: factorized Inception blocks and an auxiliary head (Szegedy et al., 2015)."""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.factorized import (
    BranchRows,
    ConvRow,
    FactorizedInception,
    PoolRow,
    SplitRow,
    conv_bn_relu,
)
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.contract.auxiliary import AuxLogits
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.inception import conv_3b_and_4a, early_stride, inception_stem, smallest_side
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["InceptionV3", "inception_v3"]

NAMES = ("conv2d_2b", "conv2d_4a", "mixed_5d", "mixed_6e", "mixed_7c")
AVG, MAX = PoolRow("avg"), PoolRow("max")


def inception_a(pool: int) -> tuple[BranchRows, ...]:
    """Return the branches of Fig. 5, where 5x5 becomes two 3x3; the second branch keeps its 5x5."""
    double = (ConvRow(64), ConvRow(96, 3), ConvRow(96, 3))
    return (ConvRow(64),), (ConvRow(48), ConvRow(64, 5)), double, (AVG, ConvRow(pool))


def inception_b(width: int) -> tuple[BranchRows, ...]:
    """Return the branches of Fig. 6: 7x7 becomes 1x7 and 7x1."""
    row, column = ConvRow(width, (1, 7)), ConvRow(width, (7, 1))
    single = (ConvRow(width), row, ConvRow(192, (7, 1)))
    double = (ConvRow(width), column, row, column, ConvRow(192, (1, 7)))
    return (ConvRow(192),), single, double, (AVG, ConvRow(192))


REDUCTION_A = (
    (ConvRow(384, 3, 2, valid=True),),
    (ConvRow(64), ConvRow(96, 3), ConvRow(96, 3, 2, valid=True)),
    (MAX,),
)
REDUCTION_B = (
    (ConvRow(192), ConvRow(320, 3, 2, valid=True)),
    (
        *(ConvRow(192), ConvRow(192, (1, 7)), ConvRow(192, (7, 1))),
        ConvRow(192, 3, 2, valid=True),
    ),
    (MAX,),
)
INCEPTION_C = (  # Fig. 7: 1x3 and 3x1 side by side
    (ConvRow(320),),
    (ConvRow(384), SplitRow(384)),
    (ConvRow(448), ConvRow(384, 3), SplitRow(384)),
    (AVG, ConvRow(192)),
)
MIXED = (
    (inception_a(32), inception_a(64), inception_a(64)),
    (REDUCTION_A, inception_b(128), inception_b(160), inception_b(160), inception_b(192)),
    (REDUCTION_B, INCEPTION_C, INCEPTION_C),
)
"""The blocks of the stages mixed_5, mixed_6 and mixed_7, called 5b, 5c, ... in the checkpoints."""


class InceptionV3Options(CommonOptions, total=False):
    """Options of Inception v3."""

    aux_logits: bool


class AuxiliaryHeadV3(ClassifierHead):
    """The auxiliary head: 5x5 average pool with stride 3, 1x1 and 5x5 convolutions, classifier.

    The map is first average-pooled to the 17x17 of 299-pixel images, which already have this size.

    Args:
        in_channels: number of channels in the map.
        num_classes: number of logits; 0 returns the classifier's input.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes), or (N, 768) if num_classes is 0
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        to_1x1 = nn.Sequential()
        to_1x1.average = nn.Sequential(AdaptiveAvgPool2d(17), nn.AvgPool2d(5, 3))
        to_1x1.conv1 = conv_bn_relu(in_channels, ConvRow(128))
        to_1x1.conv2 = conv_bn_relu(128, ConvRow(768, 5, valid=True))
        super().__init__(768, num_classes, pool=to_1x1)


class InceptionV3(ImageClassifier):
    """Inception v3: five convolutions, eleven Inception blocks, pooled linear head.

    BatchNorm's eps is 1e-3, and the average pools count their padding. The paper does not specify
    the initialization; this network uses He initialization.

    Args:
        stages: for each of the last three stages, the branches of its Inception blocks.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        aux_logits: whether the network has an auxiliary head after `mixed_6e` and returns
            `AuxLogits` in training mode.
        small_images: use stride 1 in the stem and the two max-pools; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `stages` does not consist of three non-empty stages, or `dropout` is out of
            range.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Sequence[BranchRows]]] = MIXED,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.5,
        aux_logits: bool = False,
        small_images: bool = False,
    ) -> None:
        check_length("stages", stages, 3)
        stride = early_stride(small_images)
        stem = inception_stem(in_channels, small_images)
        parts = [Stage(*conv_3b_and_4a(), pool=nn.MaxPool2d(3, stride))]
        channels, widths = 192, []
        for i, blocks in enumerate(stages):
            check_integer("depth of a stage", len(blocks), 1)
            stage = Stage() if i else Stage(pool=nn.MaxPool2d(3, stride))
            for branches in blocks:
                block = FactorizedInception(channels, branches)
                stage.append(block)
                channels = block.out_channels
            parts.append(stage)
            widths.append(channels)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        side = smallest_side(small_images)
        super().__init__(stem, parts, head, names=NAMES, min_input_size=side)
        self.aux_logits = aux_logits
        if aux_logits:
            self.aux1 = AuxiliaryHeadV3(widths[1], num_classes)

    def forward(self, x: Tensor) -> Tensor | AuxLogits:  # type: ignore[override]
        """Return logits (never softmax), or `AuxLogits` in training with an auxiliary head."""
        if not (self.aux_logits and self.training):
            return super().forward(x)
        (x,) = self.forward_stages(x, ["mixed_6e"])
        return AuxLogits(self.forward_head(self.stages[3](x)), self.aux1(x))


@builder
def inception_v3(
    *, weights: WeightsSource = None, **options: Unpack[InceptionV3Options]
) -> InceptionV3:
    """Inception v3 as released, with 299-pixel images."""
    return build("inception_v3", weights, InceptionV3, **options)
