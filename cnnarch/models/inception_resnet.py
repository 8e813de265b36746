"""Inception-ResNet v1 and v2: Inception blocks with residual connections (Szegedy et al., 2016)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length, check_probability
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.factorized import (
    BranchRows,
    ConvRow,
    FactorizedInception,
    PoolRow,
    conv_bn_relu,
)
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import he_fan_in_
from cnnarch.blocks.residual_inception import ResidualInception
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.inception import conv_3b_and_4a, early_stride, inception_stem, smallest_side
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["InceptionResNet", "inception_resnet_v1", "inception_resnet_v2"]

NAMES = ("conv2d_2b", "conv2d_4a", "inception_resnet_a", "inception_resnet_b", "inception_resnet_c")
SCALES = (0.17, 0.10, 0.20)
AVG, MAX = PoolRow("avg"), PoolRow("max")
MIXED_5B = (
    (ConvRow(96),),
    (ConvRow(48), ConvRow(64, 5)),
    (ConvRow(64), ConvRow(96, 3), ConvRow(96, 3)),
    (AVG, ConvRow(64)),
)


def opening_v1(stride: int) -> Stage:
    """Return the last convolution of the stem in Fig. 14, which halves the map if `stride` is 2."""
    return Stage(conv_bn_relu(192, ConvRow(256, 3, stride, valid=True)))


def opening_v2(stride: int) -> Stage:
    """Return the pool and the Inception block before the residual blocks of v2."""
    mixed_5b = FactorizedInception(192, MIXED_5B, count_include_pad=False)
    return Stage(mixed_5b, pool=nn.MaxPool2d(3, stride))


def head_v1(in_channels: int, num_classes: int, dropout: float) -> ClassifierHead:
    """Return a head with a hidden layer of 512 units and BatchNorm."""
    check_probability("dropout", dropout)
    hidden = nn.Sequential()
    hidden.dropout = nn.Dropout(dropout)
    hidden.linear = he_fan_in_(nn.Linear(in_channels, 512, bias=False))
    hidden.norm = nn.BatchNorm1d(512, eps=1e-3)
    return ClassifierHead(512, num_classes, hidden=hidden)


def head_v2(in_channels: int, num_classes: int, dropout: float) -> ClassifierHead:
    """Return a head that begins with a 1x1 convolution."""
    last = conv_bn_relu(in_channels, ConvRow(1536))
    return ClassifierHead(1536, num_classes, before=last, dropout=dropout)


class InceptionResNetRow(NamedTuple):
    """A variant.

    Args:
        opening: creates the layers before the first residual block, given the stride of the one
            that halves the map.
        channels: number of channels after these layers.
        residual: branches of the residual blocks A, B and C.
        reductions: branches of the reduction blocks A and B.
        head: creates the head from its number of input channels, `num_classes` and `dropout`.
    """

    opening: Callable[[int], Stage]
    channels: int
    residual: tuple[Sequence[BranchRows], ...]
    reductions: tuple[Sequence[BranchRows], ...]
    head: Callable[[int, int, float], ClassifierHead]


V1 = InceptionResNetRow(
    opening=opening_v1,
    channels=256,
    residual=(
        (  # Fig. 10
            (ConvRow(32),),
            (ConvRow(32), ConvRow(32, 3)),
            (ConvRow(32), ConvRow(32, 3), ConvRow(32, 3)),
        ),
        ((ConvRow(128),), (ConvRow(128), ConvRow(128, (1, 7)), ConvRow(128, (7, 1)))),  # Fig. 11
        ((ConvRow(192),), (ConvRow(192), ConvRow(192, (1, 3)), ConvRow(192, (3, 1)))),  # Fig. 13
    ),
    reductions=(
        (  # Fig. 7, with k, l, m, n of Table 1
            (ConvRow(384, 3, 2, valid=True),),
            (ConvRow(192), ConvRow(192, 3), ConvRow(256, 3, 2, valid=True)),
            (MAX,),
        ),
        (  # Fig. 12
            (ConvRow(256), ConvRow(384, 3, 2, valid=True)),
            (ConvRow(256), ConvRow(256, 3, 2, valid=True)),
            (ConvRow(256), ConvRow(256, 3), ConvRow(256, 3, 2, valid=True)),
            (MAX,),
        ),
    ),
    head=head_v1,
)
V2 = InceptionResNetRow(
    opening=opening_v2,
    channels=320,
    residual=(
        (  # Fig. 16
            (ConvRow(32),),
            (ConvRow(32), ConvRow(32, 3)),
            (ConvRow(32), ConvRow(48, 3), ConvRow(64, 3)),
        ),
        ((ConvRow(192),), (ConvRow(128), ConvRow(160, (1, 7)), ConvRow(192, (7, 1)))),  # Fig. 17
        ((ConvRow(192),), (ConvRow(192), ConvRow(224, (1, 3)), ConvRow(256, (3, 1)))),  # Fig. 19
    ),
    reductions=(
        (  # Fig. 7, with k, l, m, n of Table 1
            (ConvRow(384, 3, 2, valid=True),),
            (ConvRow(256), ConvRow(256, 3), ConvRow(384, 3, 2, valid=True)),
            (MAX,),
        ),
        (  # Fig. 18
            (ConvRow(256), ConvRow(384, 3, 2, valid=True)),
            (ConvRow(256), ConvRow(288, 3, 2, valid=True)),
            (ConvRow(256), ConvRow(288, 3), ConvRow(320, 3, 2, valid=True)),
            (MAX,),
        ),
    ),
    head=head_v2,
)


class InceptionResNet(ImageClassifier):
    """Inception-ResNet: a stem, residual Inception blocks at three sizes of the map, linear head.

    The residuals of the blocks A, B and C are scaled by 0.17, 0.10 and 0.20, except in the last
    block, which has no scale and no ReLU. BatchNorm's eps is 1e-3, and the average pool does not
    count its padding. The paper does not specify the initialization; this network uses He
    initialization.

    Args:
        row: the variant.
        depths: number of residual blocks A, B and C.
        num_classes: number of logits; 0 returns the features before the classifier.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and in the two layers after it that halve the map;
            32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` does not have three entries, a stage is empty, or `dropout` is out of
            range.
    """

    def __init__(
        self,
        row: InceptionResNetRow,
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        small_images: bool = False,
    ) -> None:
        check_length("depths", depths, 3)
        stride, channels = early_stride(small_images), row.channels
        first = Stage(*conv_3b_and_4a(), pool=nn.MaxPool2d(3, stride))
        stages = [row.opening(stride)]
        for i, (branches, depth) in enumerate(zip(row.residual, depths, strict=True)):
            check_integer("depth of a stage", depth, 1)
            if i:
                reduction = FactorizedInception(channels, row.reductions[i - 1])
                channels = reduction.out_channels
                stages.append(Stage(reduction))
            for j in range(depth):
                last = (i, j) == (2, depth - 1)
                scale = 1.0 if last else SCALES[i]
                stages[i].append(ResidualInception(channels, branches, scale=scale, act=not last))
        super().__init__(
            inception_stem(in_channels, small_images),
            [first, *stages],
            row.head(channels, num_classes, dropout),
            names=NAMES,
            min_input_size=smallest_side(small_images),
        )


@builder
def inception_resnet_v1(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> InceptionResNet:
    """Inception-ResNet v1: about the cost of Inception v3."""
    return build("inception_resnet_v1", weights, InceptionResNet, V1, (5, 10, 6), **options)


@builder
def inception_resnet_v2(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> InceptionResNet:
    """Inception-ResNet v2 as released: about the cost of Inception v4."""
    return build("inception_resnet_v2", weights, InceptionResNet, V2, (10, 20, 10), **options)
