"""GhostNet: half of the feature maps computed cheaply from the other half (Han et al., 2019)."""

from collections import OrderedDict
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.ghost import GhostBottleneck
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inverted_residual import round_channels
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["GhostNet", "ghostnet_0_5", "ghostnet_1_0", "ghostnet_1_3"]


class GhostRow(NamedTuple):
    """A row of Table 1, "G-bneck": the kernel, #exp, #out, SE and stride."""

    kernel_size: int
    hidden: int
    channels: int
    se: bool
    stride: int


STEM_CHANNELS = 16
TABLE_1 = {  # each stage starts with its stride of 2
    "stage1": (GhostRow(3, 16, 16, False, 1),),
    "stage2": (GhostRow(3, 48, 24, False, 2), GhostRow(3, 72, 24, False, 1)),
    "stage3": (GhostRow(5, 72, 40, True, 2), GhostRow(5, 120, 40, True, 1)),
    "stage4": (
        GhostRow(3, 240, 80, False, 2),
        GhostRow(3, 200, 80, False, 1),
        GhostRow(3, 184, 80, False, 1),
        GhostRow(3, 184, 80, False, 1),
        GhostRow(3, 480, 112, True, 1),
        GhostRow(3, 672, 112, True, 1),
    ),
    "stage5": (
        GhostRow(5, 672, 160, True, 2),
        GhostRow(5, 960, 160, False, 1),
        GhostRow(5, 960, 160, True, 1),
        GhostRow(5, 960, 160, False, 1),
        GhostRow(5, 960, 160, True, 1),
    ),
}
LAST_CHANNELS = 960
HIDDEN = 1280  # never scaled


class GhostNet(ImageClassifier):
    """GhostNet: 3x3 stem, 16 ghost bottlenecks, 1x1 convolution, pool, hidden layer, classifier.

    The squeeze of squeeze-and-excitation is a quarter of a block's hidden width, and its gate is a
    hard sigmoid. The paper does not specify the initialization; this network uses He
    initialization.

    Args:
        width: factor by which each layer's number of channels is multiplied, greater than 0. The
            product is rounded to a multiple of 4. The hidden layer is not scaled.
        num_classes: number of logits; 0 returns the output of the hidden layer.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing an output of the hidden layer, in [0, 1).
        small_images: use stride 1 in the stem and `stage2`; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `width` or `dropout` is out of range.
    """

    def __init__(
        self,
        width: float,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        small_images: bool = False,
    ) -> None:
        check_positive("width", width)
        channels = _scale(STEM_CHANNELS, width)
        stem = ConvNormAct(in_channels, channels, 3, 1 if small_images else 2)
        stages = []
        for name, rows in TABLE_1.items():
            stage = Stage()
            for row in rows:
                stride = 1 if small_images and name == "stage2" else row.stride
                shape = (channels, _scale(row.hidden, width), _scale(row.channels, width))
                se = _squeeze if row.se else None
                strided = row.stride > 1
                stage.append(
                    GhostBottleneck(*shape, row.kernel_size, stride, depthwise=strided, se=se)
                )
                channels = shape[-1]
            stages.append(stage)
        last = _scale(LAST_CHANNELS, width)
        head = ClassifierHead(
            HIDDEN,
            num_classes,
            before=ConvNormAct(channels, last, 1),
            hidden=nn.Sequential(OrderedDict(fc=nn.Linear(last, HIDDEN), act=nn.ReLU())),
            dropout=dropout,
        )
        super().__init__(stem, stages, head, names=("conv1", *TABLE_1))


def _scale(channels: float, width: float) -> int:
    return round_channels(channels, width, divisor=4)


def _squeeze(hidden_channels: int) -> SE:
    return SE(hidden_channels, _scale(hidden_channels, 0.25), gate=nn.Hardsigmoid)


@builder
def ghostnet_0_5(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> GhostNet:
    """GhostNet with half of the channels."""
    return build("ghostnet_0_5", weights, GhostNet, 0.5, **options)


@builder
def ghostnet_1_0(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> GhostNet:
    """GhostNet as in Table 1."""
    return build("ghostnet_1_0", weights, GhostNet, 1.0, **options)


@builder
def ghostnet_1_3(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> GhostNet:
    """GhostNet with 1.3 times the channels."""
    return build("ghostnet_1_3", weights, GhostNet, 1.3, **options)
