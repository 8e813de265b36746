"""Inception v4: a deeper, more uniform Inception network (Szegedy et al., 2016)."""

from collections.abc import Sequence
from typing import Unpack

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.factorized import BranchRows, ConvRow, FactorizedInception, PoolRow, SplitRow
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.inception import STEM_CHANNELS, early_stride, inception_stem, smallest_side
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["InceptionV4", "inception_v4"]

NAMES = ("conv2d_2b", "mixed_4a", "inception_a", "inception_b", "inception_c")
AVG, MAX = PoolRow("avg"), PoolRow("max")

MIXED_4A = (  # Fig. 3, the stem
    (ConvRow(64), ConvRow(96, 3, valid=True)),
    (ConvRow(64), ConvRow(64, (1, 7)), ConvRow(64, (7, 1)), ConvRow(96, 3, valid=True)),
)
INCEPTION_A = (  # Fig. 4
    (ConvRow(96),),
    (ConvRow(64), ConvRow(96, 3)),
    (ConvRow(64), ConvRow(96, 3), ConvRow(96, 3)),
    (AVG, ConvRow(96)),
)
REDUCTION_A = (  # Fig. 7, with k, l, m, n of Table 1
    (ConvRow(384, 3, 2, valid=True),),
    (ConvRow(192), ConvRow(224, 3), ConvRow(256, 3, 2, valid=True)),
    (MAX,),
)
INCEPTION_B = (  # Fig. 5
    (ConvRow(384),),
    (ConvRow(192), ConvRow(224, (1, 7)), ConvRow(256, (7, 1))),
    (
        *(ConvRow(192), ConvRow(192, (7, 1)), ConvRow(224, (1, 7)), ConvRow(224, (7, 1))),
        ConvRow(256, (1, 7)),
    ),
    (AVG, ConvRow(128)),
)
REDUCTION_B = (  # Fig. 8
    (ConvRow(192), ConvRow(192, 3, 2, valid=True)),
    (
        *(ConvRow(256), ConvRow(256, (1, 7)), ConvRow(320, (7, 1))),
        ConvRow(320, 3, 2, valid=True),
    ),
    (MAX,),
)
INCEPTION_C = (  # Fig. 6
    (ConvRow(256),),
    (ConvRow(384), SplitRow(256)),
    (ConvRow(384), ConvRow(448, (3, 1)), ConvRow(512, (1, 3)), SplitRow(256)),
    (AVG, ConvRow(256)),
)
FIG_9 = (
    (INCEPTION_A,) * 4,
    (REDUCTION_A, *(INCEPTION_B,) * 7),
    (REDUCTION_B, *(INCEPTION_C,) * 3),
)


def mixed_3a(stride: int) -> tuple[BranchRows, ...]:
    """Return the first block of the paper's stem: a pool and a convolution."""
    return (PoolRow("max", stride),), (ConvRow(96, 3, stride, valid=True),)


def mixed_5a(stride: int) -> tuple[BranchRows, ...]:
    """Return the last block of the paper's stem: a convolution and a pool."""
    return (ConvRow(192, 3, stride, valid=True),), (PoolRow("max", stride),)


class InceptionV4(ImageClassifier):
    """Inception v4: three convolutions, 19 Inception blocks, pooled linear head.

    The first three blocks are part of the paper's stem. BatchNorm's eps is 1e-3, and the average
    pools do not count their padding. The paper does not specify the initialization; this network
    uses He initialization.

    Args:
        stages: for each of the last three stages, the branches of its Inception blocks.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and in `mixed_3a` and `mixed_5a`; 32x32 images give
            4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `stages` does not consist of three non-empty stages, or `dropout` is out of
            range.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Sequence[BranchRows]]] = FIG_9,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        small_images: bool = False,
    ) -> None:
        check_length("stages", stages, 3)
        stride = early_stride(small_images)
        stem = inception_stem(in_channels, small_images)
        first, second, third = stages
        rows = ((mixed_3a(stride), MIXED_4A), (mixed_5a(stride), *first), second, third)
        channels, parts = STEM_CHANNELS, []
        for blocks in rows:
            check_integer("depth of a stage", len(blocks), 1)
            stage = Stage()
            for branches in blocks:
                block = FactorizedInception(channels, branches, count_include_pad=False)
                stage.append(block)
                channels = block.out_channels
            parts.append(stage)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        side = smallest_side(small_images)
        super().__init__(stem, parts, head, names=NAMES, min_input_size=side)


@builder
def inception_v4(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> InceptionV4:
    """Inception v4, with 299-pixel images."""
    return build("inception_v4", weights, InceptionV4, **options)
