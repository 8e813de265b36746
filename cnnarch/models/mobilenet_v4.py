"""MobileNet V4: one searched block for CPUs, GPUs and accelerators (Qin et al., 2024)."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive, check_probability
from cnnarch.blocks.conv import ConvNormAct, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import he_normal_
from cnnarch.blocks.inverted_residual import round_channels
from cnnarch.blocks.universal_bottleneck_stages import (
    UIB,
    Conv2D,
    FusedIB,
    V4Row,
    universal_bottleneck_stages,
)
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "MobileNetV4",
    "mobilenetv4_conv_large",
    "mobilenetv4_conv_medium",
    "mobilenetv4_conv_small",
]


class V4Table(NamedTuple):
    """A table of the paper's appendix: the stem's width, the stages, and the last two widths."""

    stem: int
    stages: Mapping[str, tuple[V4Row, ...]]
    last: int = 960
    hidden: int = 1280


SMALL = V4Table(
    32,
    {
        "stage2": (Conv2D(3, 32), Conv2D(1, 32)),
        "stage3": (Conv2D(3, 96), Conv2D(1, 64)),
        "stage4": (UIB(5, 5, 3, 96), *[UIB(None, 3, 2, 96)] * 4, UIB(3, None, 4, 96)),
        "stage5": (
            UIB(3, 3, 6, 128),
            UIB(5, 5, 4, 128),
            UIB(None, 5, 4, 128),
            UIB(None, 5, 3, 128),
            *[UIB(None, 3, 4, 128)] * 2,
        ),
    },
)
MEDIUM = V4Table(
    32,
    {
        "stage2": (FusedIB(4, 48),),
        "stage3": (UIB(3, 5, 4, 80), UIB(3, 3, 2, 80)),
        "stage4": (
            UIB(3, 5, 6, 160),
            *[UIB(3, 3, 4, 160)] * 2,
            UIB(3, 5, 4, 160),
            UIB(3, 3, 4, 160),
            UIB(3, None, 4, 160),
            UIB(None, None, 2, 160),
            UIB(3, None, 4, 160),
        ),
        "stage5": (
            UIB(5, 5, 6, 256),
            UIB(5, 5, 4, 256),
            *[UIB(3, 5, 4, 256)] * 2,
            UIB(None, None, 4, 256),
            UIB(3, None, 4, 256),
            UIB(3, 5, 2, 256),
            UIB(5, 5, 4, 256),
            *[UIB(None, None, 4, 256)] * 2,
            UIB(5, None, 2, 256),
        ),
    },
)
LARGE = V4Table(
    24,
    {
        "stage2": (FusedIB(4, 48),),
        "stage3": (UIB(3, 5, 4, 96), UIB(3, 3, 4, 96)),
        "stage4": (
            UIB(3, 5, 4, 192),
            *[UIB(3, 3, 4, 192)] * 3,
            UIB(3, 5, 4, 192),
            *[UIB(5, 3, 4, 192)] * 5,
            UIB(3, None, 4, 192),
        ),
        "stage5": (
            *[UIB(5, 5, 4, 512)] * 4,
            UIB(5, None, 4, 512),
            UIB(5, 3, 4, 512),
            *[UIB(5, None, 4, 512)] * 2,
            UIB(5, 3, 4, 512),
            UIB(5, 5, 4, 512),
            *[UIB(5, None, 4, 512)] * 3,
        ),
    },
)


class MobileNetV4Options(CommonOptions, total=False):
    """Options of MobileNet V4."""

    width: float
    drop_path: float


class MobileNetV4(ImageClassifier):
    """MobileNet V4: 3x3 stem, stages of `UniversalInvertedBottleneck`, pool, hidden layer, logits.

    All activations are ReLU. The hidden layer after the pool has BatchNorm and no bias. The paper
    does not specify the initialization; this network uses He initialization.

    Args:
        variant: the rows of the paper's table.
        num_classes: number of logits; 0 returns the output of the hidden layer.
        in_channels: number of channels in the input image.
        width: factor by which each layer's number of channels is multiplied, greater than 0. The
            product is rounded to a multiple of 8. The stem and the hidden layer are not scaled
            down.
        dropout: probability of zeroing an output of the hidden layer, in [0, 1).
        drop_path: maximum probability of dropping a residual branch, in [0, 1); for block i of n,
            the probability is drop_path * i / n.
        small_images: use stride 1 in the stem and `stage2`; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). The last stage has stride 32.

    Raises:
        ValueError: `width`, `dropout` or `drop_path` is out of range.
    """

    def __init__(
        self,
        variant: V4Table,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_positive("width", width)
        check_probability("drop_path", drop_path)
        stem_channels = round_channels(variant.stem, max(1.0, width))
        stem = ConvNormAct(in_channels, stem_channels, 3, 1 if small_images else 2)
        tables = list(variant.stages.values())
        stages = universal_bottleneck_stages(stem_channels, tables, width, drop_path)
        if small_images:
            remove_stride(stages[0][0])
        last = round_channels(variant.last, width)
        features = round_channels(variant.hidden, max(1.0, width))
        head = ClassifierHead(
            features,
            num_classes,
            before=ConvNormAct(round_channels(tables[-1][-1].channels, width), last, 1),
            hidden=_hidden(last, features),
            dropout=dropout,
        )
        super().__init__(stem, stages, head, names=("stage1", *variant.stages))


def _hidden(inputs: int, features: int) -> nn.Sequential:
    fc = he_normal_(nn.Linear(inputs, features, bias=False))
    return nn.Sequential(OrderedDict(fc=fc, norm=nn.BatchNorm1d(features), act=nn.ReLU()))


@builder
def mobilenetv4_conv_small(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV4Options]
) -> MobileNetV4:
    """MNv4-Conv-S: full convolutions in early stages, then 12 universal bottlenecks."""
    return build("mobilenetv4_conv_small", weights, MobileNetV4, SMALL, **options)


@builder
def mobilenetv4_conv_medium(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV4Options]
) -> MobileNetV4:
    """MNv4-Conv-M: 21 universal bottlenecks, for images of 256 pixels."""
    return build("mobilenetv4_conv_medium", weights, MobileNetV4, MEDIUM, **options)


@builder
def mobilenetv4_conv_large(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV4Options]
) -> MobileNetV4:
    """MNv4-Conv-L: 26 universal bottlenecks, for images of 384 pixels."""
    return build("mobilenetv4_conv_large", weights, MobileNetV4, LARGE, **options)
