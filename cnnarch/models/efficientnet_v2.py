"""EfficientNetV2: fused early stages, searched for training speed (Tan and Le, 2021)."""

import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive, check_probability
from cnnarch.blocks.conv import ConvNormAct, Padding, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inverted_residual import InvertedResidual, squeeze_input
from cnnarch.blocks.inverted_residual_stages import inverted_residual_stages
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.builders import builder
from cnnarch.models.efficientnet import Options, make_classifier

__all__ = [
    "EfficientNetV2",
    "efficientnet_v2_b0",
    "efficientnet_v2_b1",
    "efficientnet_v2_b2",
    "efficientnet_v2_b3",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "efficientnet_v2_xl",
]


class V2Row(NamedTuple):
    """A row of Table 4: "MBConv4" or "Fused-MBConv4"; only the first layer uses the stride."""

    fused: bool
    expansion: int
    stride: int
    channels: int
    layers: int


class V2Table(NamedTuple):
    """The stem's width, the rows of the table, the width of the last convolution, and dropout."""

    stem: int
    rows: Mapping[str, V2Row]
    head: int
    dropout: float

    def scaled(self, width: float, depth: float, dropout: float) -> "V2Table":
        """Return the variant with other widths, multiples of 8, and depths, rounded up."""
        rows = {
            name: row._replace(
                channels=_nearest(row.channels * width), layers=math.ceil(row.layers * depth)
            )
            for name, row in self.rows.items()
        }
        return V2Table(_nearest(self.stem * width), rows, _nearest(self.head * width), dropout)


def _nearest(channels: float) -> int:  # without the 10% rule of the first EfficientNets
    return int(channels + 4) // 8 * 8


FUSED, MBCONV = True, False
HEAD_CHANNELS = 1280
S = V2Table(  # Table 4
    24,
    {
        "stage1": V2Row(FUSED, 1, 1, 24, 2),
        "stage2": V2Row(FUSED, 4, 2, 48, 4),
        "stage3": V2Row(FUSED, 4, 2, 64, 4),
        "stage4": V2Row(MBCONV, 4, 2, 128, 6),
        "stage5": V2Row(MBCONV, 6, 1, 160, 9),
        "stage6": V2Row(MBCONV, 6, 2, 256, 15),
    },
    HEAD_CHANNELS,
    0.2,
)
M = V2Table(  # M, L and XL: the authors' code
    24,
    {
        "stage1": V2Row(FUSED, 1, 1, 24, 3),
        "stage2": V2Row(FUSED, 4, 2, 48, 5),
        "stage3": V2Row(FUSED, 4, 2, 80, 5),
        "stage4": V2Row(MBCONV, 4, 2, 160, 7),
        "stage5": V2Row(MBCONV, 6, 1, 176, 14),
        "stage6": V2Row(MBCONV, 6, 2, 304, 18),
        "stage7": V2Row(MBCONV, 6, 1, 512, 5),
    },
    HEAD_CHANNELS,
    0.3,
)
L = V2Table(
    32,
    {
        "stage1": V2Row(FUSED, 1, 1, 32, 4),
        "stage2": V2Row(FUSED, 4, 2, 64, 7),
        "stage3": V2Row(FUSED, 4, 2, 96, 7),
        "stage4": V2Row(MBCONV, 4, 2, 192, 10),
        "stage5": V2Row(MBCONV, 6, 1, 224, 19),
        "stage6": V2Row(MBCONV, 6, 2, 384, 25),
        "stage7": V2Row(MBCONV, 6, 1, 640, 7),
    },
    HEAD_CHANNELS,
    0.4,
)
XL = V2Table(
    32,
    {
        "stage1": V2Row(FUSED, 1, 1, 32, 4),
        "stage2": V2Row(FUSED, 4, 2, 64, 8),
        "stage3": V2Row(FUSED, 4, 2, 96, 8),
        "stage4": V2Row(MBCONV, 4, 2, 192, 16),
        "stage5": V2Row(MBCONV, 6, 1, 256, 24),
        "stage6": V2Row(MBCONV, 6, 2, 512, 32),
        "stage7": V2Row(MBCONV, 6, 1, 640, 8),
    },
    HEAD_CHANNELS,
    0.4,
)
B0 = V2Table(  # the size of the first EfficientNet-B0, from which B1 to B3 are scaled
    32,
    {
        "stage1": V2Row(FUSED, 1, 1, 16, 1),
        "stage2": V2Row(FUSED, 4, 2, 32, 2),
        "stage3": V2Row(FUSED, 4, 2, 48, 2),
        "stage4": V2Row(MBCONV, 4, 2, 96, 3),
        "stage5": V2Row(MBCONV, 6, 1, 112, 5),
        "stage6": V2Row(MBCONV, 6, 2, 192, 8),
    },
    HEAD_CHANNELS,
    0.2,
)


class EfficientNetV2(ImageClassifier):
    """EfficientNetV2: 3x3 stem, fused and other MBConv stages, 1x1 convolution, pooled linear head.

    Initialization is that of `EfficientNet`; BatchNorm's momentum is 0.1.

    Args:
        variant: the rows of the table.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1); None uses the variant's.
        drop_path: maximum probability of dropping a residual branch, in [0, 1); for block i of n,
            the probability is drop_path * i / n.
        norm_eps: constant that BatchNorm adds to the variance.
        padding: "symmetric", or "same" as in TensorFlow and the authors' checkpoints.
        small_images: use stride 1 in the stem and `stage2`; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). The last stage has stride 32.

    Raises:
        ValueError: `dropout`, `drop_path` or `norm_eps` is out of range, or `padding` is unknown.
    """

    def __init__(
        self,
        variant: V2Table,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float | None = None,
        drop_path: float = 0.2,
        norm_eps: float = 1e-3,
        padding: Padding = "symmetric",
        small_images: bool = False,
    ) -> None:
        check_positive("norm_eps", norm_eps)
        check_probability("drop_path", drop_path)
        norm = partial(nn.BatchNorm2d, eps=norm_eps)
        layer = partial(ConvNormAct, padding=padding, norm=norm, act=nn.SiLU)
        mbconv = partial(InvertedResidual, padding=padding, norm=norm, act=nn.SiLU)
        rows = dict(variant.rows)

        def block(row: V2Row, inputs: int, stride: int, rate: float) -> InvertedResidual:
            shape = (inputs, inputs * row.expansion, row.channels, 3, stride)
            se = None if row.fused else partial(squeeze_input, act=nn.SiLU)
            return mbconv(*shape, se=se, fused=row.fused, drop_path=rate)

        stem = layer(in_channels, variant.stem, 3, 1 if small_images else 2)
        stages = inverted_residual_stages(variant.stem, rows.values(), block, drop_path)
        if small_images:
            remove_stride(stages[1][0])  # stage2
        *_, last = rows.values()
        head = ClassifierHead(
            variant.head,
            num_classes,
            before=layer(last.channels, variant.head, 1),
            dropout=variant.dropout if dropout is None else dropout,
            make_classifier=make_classifier,
        )
        super().__init__(stem, stages, head, names=("stage0", *rows))
        self.options |= {"dropout": head.dropout_rate}  # the effective value, not None


@builder
def efficientnet_v2_s(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-S: the network of Table 4."""
    return build("efficientnet_v2_s", weights, EfficientNetV2, S, **options)


@builder
def efficientnet_v2_m(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-M: wider and deeper, with a seventh stage."""
    return build("efficientnet_v2_m", weights, EfficientNetV2, M, **options)


@builder
def efficientnet_v2_l(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-L: wider and deeper than M."""
    return build("efficientnet_v2_l", weights, EfficientNetV2, L, **options)


@builder
def efficientnet_v2_xl(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-XL: deeper than L, for training on ImageNet-21k."""
    return build("efficientnet_v2_xl", weights, EfficientNetV2, XL, **options)


@builder
def efficientnet_v2_b0(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-B0: as large as EfficientNet-B0."""
    return build("efficientnet_v2_b0", weights, EfficientNetV2, B0, **options)


@builder
def efficientnet_v2_b1(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-B1: width 1.0, depth 1.1."""
    return build("efficientnet_v2_b1", weights, EfficientNetV2, B0.scaled(1.0, 1.1, 0.2), **options)


@builder
def efficientnet_v2_b2(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-B2: width 1.1, depth 1.2."""
    return build("efficientnet_v2_b2", weights, EfficientNetV2, B0.scaled(1.1, 1.2, 0.3), **options)


@builder
def efficientnet_v2_b3(
    *, weights: WeightsSource = None, **options: Unpack[Options]
) -> EfficientNetV2:
    """EfficientNetV2-B3: width 1.2, depth 1.4."""
    return build("efficientnet_v2_b3", weights, EfficientNetV2, B0.scaled(1.2, 1.4, 0.3), **options)
