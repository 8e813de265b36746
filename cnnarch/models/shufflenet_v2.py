"""ShuffleNet V2: split and shuffled channels, designed for speed (Ma et al., 2018)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.shuffle_v2 import ShuffleUnitV2
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder
from cnnarch.models.shufflenet_v1 import DEPTHS, NAMES, conv1, shuffle_stages

__all__ = [
    "ShuffleNetV2",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
]


class ShuffleNetV2Row(NamedTuple):
    """A column of Table 5: the output channels of stages 2 to 4 and of conv5."""

    channels: tuple[int, int, int]
    conv5: int


X0_5 = ShuffleNetV2Row((48, 96, 192), 1024)
X1_0 = ShuffleNetV2Row((116, 232, 464), 1024)
X1_5 = ShuffleNetV2Row((176, 352, 704), 1024)
X2_0 = ShuffleNetV2Row((244, 488, 976), 2048)


class ShuffleNetV2(ImageClassifier):
    """ShuffleNet V2: 3x3 stem, three stages of `ShuffleUnitV2`, 1x1 convolution, linear head.

    Each stage starts with a unit of stride 2, the first one after a max-pool. The paper does not
    specify the initialization; this network uses He initialization.

    Args:
        channels: number of output channels of each stage.
        conv5: number of channels in the last 1x1 convolution.
        depths: number of units in each stage.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 8, 16 and 32.

    Raises:
        ValueError: `channels` or `depths` does not have three entries, a stage is empty, a number
            of channels is odd, or `dropout` is out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        conv5: int,
        depths: Sequence[int] = DEPTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        stages = shuffle_stages(ShuffleUnitV2, channels, depths, small_images)
        last = ConvNormAct(channels[-1], conv5, 1)
        super().__init__(
            conv1(in_channels, small_images),
            stages,
            ClassifierHead(conv5, num_classes, before=last, dropout=dropout),
            names=NAMES,
        )


@builder
def shufflenet_v2_x0_5(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV2:
    """ShuffleNet V2 0.5x."""
    return build("shufflenet_v2_x0_5", weights, ShuffleNetV2, *X0_5, **options)


@builder
def shufflenet_v2_x1_0(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV2:
    """ShuffleNet V2 1.0x."""
    return build("shufflenet_v2_x1_0", weights, ShuffleNetV2, *X1_0, **options)


@builder
def shufflenet_v2_x1_5(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV2:
    """ShuffleNet V2 1.5x."""
    return build("shufflenet_v2_x1_5", weights, ShuffleNetV2, *X1_5, **options)


@builder
def shufflenet_v2_x2_0(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> ShuffleNetV2:
    """ShuffleNet V2 2.0x."""
    return build("shufflenet_v2_x2_0", weights, ShuffleNetV2, *X2_0, **options)
