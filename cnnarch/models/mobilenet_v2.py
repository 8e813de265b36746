"""MobileNet V2: inverted residuals with linear bottlenecks (Sandler et al., 2018)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.conv import ConvNormAct, Padding, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inverted_residual import InvertedResidual, round_channels
from cnnarch.blocks.inverted_residual_stages import inverted_residual_stages
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["MobileNetV2", "mobilenet_v2"]


class BottleneckRow(NamedTuple):
    """A row of Table 2: t, c, n and s. Only the first of the n layers uses the stride."""

    expansion: int
    channels: int
    layers: int
    stride: int


STEM_CHANNELS = 32
TABLE_2 = {
    "bottleneck1": BottleneckRow(1, 16, 1, 1),
    "bottleneck2": BottleneckRow(6, 24, 2, 2),
    "bottleneck3": BottleneckRow(6, 32, 3, 2),
    "bottleneck4": BottleneckRow(6, 64, 4, 2),
    "bottleneck5": BottleneckRow(6, 96, 3, 1),
    "bottleneck6": BottleneckRow(6, 160, 3, 2),
    "bottleneck7": BottleneckRow(6, 320, 1, 1),
}
HEAD_CHANNELS = 1280  # never scaled down


class MobileNetV2Options(CommonOptions, total=False):
    """Options of MobileNet V2."""

    width: float
    norm_eps: float
    padding: Padding


class MobileNetV2(ImageClassifier):
    """MobileNet V2: 3x3 stem, 17 inverted residuals, 1x1 convolution, pooled linear head.

    All activations are ReLU6, and there is none after a projection. The paper does not specify
    the initialization; this network uses He initialization.

    Args:
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        width: factor by which each layer's number of channels is multiplied, greater than 0. The
            product is rounded to a multiple of 8. The last convolution has at least 1280 channels.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and `bottleneck2`; 32x32 images give 4x4 maps.
        norm_eps: constant that BatchNorm adds to the variance.
        padding: "symmetric", or "same" as in TensorFlow.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16, 16, 32, 32.

    Raises:
        ValueError: `width`, `dropout` or `norm_eps` is out of range, or `padding` is unknown.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        dropout: float = 0.2,
        small_images: bool = False,
        norm_eps: float = 1e-5,
        padding: Padding = "symmetric",
    ) -> None:
        check_positive("width", width)
        check_positive("norm_eps", norm_eps)
        norm = partial(nn.BatchNorm2d, eps=norm_eps)
        layer = partial(ConvNormAct, padding=padding, norm=norm, act=nn.ReLU6)
        rows = dict(TABLE_2)

        def scaled(row: BottleneckRow) -> BottleneckRow:
            return row._replace(channels=round_channels(row.channels, width))

        def block(row: BottleneckRow, inputs: int, stride: int, _rate: float) -> InvertedResidual:
            shape = (inputs, inputs * row.expansion, row.channels, 3, stride)
            return InvertedResidual(*shape, padding=padding, norm=norm, act=nn.ReLU6)

        channels = round_channels(STEM_CHANNELS, width)
        stem = layer(in_channels, channels, 3, 1 if small_images else 2)
        stages = inverted_residual_stages(channels, map(scaled, rows.values()), block)
        if small_images:
            remove_stride(stages[1][0])  # bottleneck2
        features = round_channels(HEAD_CHANNELS, max(1.0, width))
        before = layer(round_channels(rows["bottleneck7"].channels, width), features, 1)
        head = ClassifierHead(features, num_classes, before=before, dropout=dropout)
        super().__init__(stem, stages, head, names=("conv1", *rows))


@builder
def mobilenet_v2(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV2Options]
) -> MobileNetV2:
    """MobileNet V2; `width=1.4` is the larger network of the paper's Table 4."""
    return build("mobilenet_v2", weights, MobileNetV2, **options)
