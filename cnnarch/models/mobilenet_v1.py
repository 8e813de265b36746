"""MobileNet V1: a stack of depthwise separable convolutions (Howard et al., 2017)."""

from functools import partial
from typing import Literal, NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.separable import DepthwiseSeparable
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["MobileNetV1", "mobilenet_v1"]

ACTIVATIONS = {"relu": nn.ReLU, "relu6": nn.ReLU6}


class SeparableRow(NamedTuple):
    """Two rows of Table 1: the stride of `Conv dw` and the filters in the 1x1 `Conv` after it."""

    filters: int
    stride: int


STEM_FILTERS = 32
TABLE_1 = {  # separable convolutions, numbered from 1; each stage starts with a stride of 2
    "ds1": (SeparableRow(64, 1),),
    "ds2-3": (SeparableRow(128, 2), SeparableRow(128, 1)),
    "ds4-5": (SeparableRow(256, 2), SeparableRow(256, 1)),
    "ds6-11": (SeparableRow(512, 2), *(SeparableRow(512, 1) for _ in range(5))),
    "ds12-13": (SeparableRow(1024, 2), SeparableRow(1024, 1)),
}


class MobileNetV1Options(CommonOptions, total=False):
    """Options of MobileNet V1."""

    width: float
    norm_eps: float
    padding: Padding
    activation: Literal["relu", "relu6"]


class MobileNetV1(ImageClassifier):
    """MobileNet V1: 3x3 stem, 13 depthwise separable convolutions, pooled linear head.

    A smaller `width` (the paper's alpha) and smaller images (its rho) reduce the cost (sec. 3.3
    and 3.4). The paper does not specify the initialization; this network uses He initialization.

    Args:
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        width: factor by which each layer's number of channels is multiplied, greater than 0. The
            product is rounded down, but a layer has at least one channel.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and `ds2`; 32x32 images give 4x4 maps.
        norm_eps: constant that BatchNorm adds to the variance.
        padding: "symmetric", or "same" as in TensorFlow.
        activation: "relu", as in the paper, or "relu6", as in the released networks.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `width`, `dropout` or `norm_eps` is out of range, or `padding` or `activation`
            is unknown.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.0,
        small_images: bool = False,
        norm_eps: float = 1e-5,
        padding: Padding = "symmetric",
        activation: Literal["relu", "relu6"] = "relu",
    ) -> None:
        check_positive("width", width)
        check_positive("norm_eps", norm_eps)
        norm = partial(nn.BatchNorm2d, eps=norm_eps)
        act = ACTIVATIONS[activation]
        convolution = partial(ConvNormAct, padding=padding, norm=norm, act=act)
        separable = partial(DepthwiseSeparable, padding=padding, norm=norm, act=act)
        channels = _scale(STEM_FILTERS, width)
        stem = convolution(in_channels, channels, 3, 1 if small_images else 2)
        stages = []
        for name, rows in TABLE_1.items():
            stage = Stage()
            for row in rows:
                stride = 1 if small_images and name == "ds2-3" else row.stride
                filters = _scale(row.filters, width)
                stage.append(separable(channels, filters, 3, stride))
                channels = filters
            stages.append(stage)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=("conv1", *TABLE_1))


def _scale(channels: int, width: float) -> int:
    return max(1, int(channels * width))


@builder
def mobilenet_v1(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV1Options]
) -> MobileNetV1:
    """MobileNet V1; `width=1.0` at 224 pixels is the paper's baseline, "1.0 MobileNet-224"."""
    return build("mobilenet_v1", weights, MobileNetV1, **options)
