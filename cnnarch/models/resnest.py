"""ResNeSt: bottlenecks with split attention (Zhang et al., 2020)."""

from typing import Unpack

from cnnarch.blocks.conv import deep_stem
from cnnarch.blocks.split_attention import SplitAttentionBottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet_d import DEPTHS_200

__all__ = [
    "ResNeSt",
    "resnest14d",
    "resnest26d",
    "resnest50d",
    "resnest101e",
    "resnest200e",
    "resnest269e",
]

DEPTHS_14 = (1, 1, 1, 1)  # number of blocks in conv2_x to conv5_x
DEPTHS_26 = (2, 2, 2, 2)
DEPTHS_269 = (3, 30, 48, 8)
STEM_D, STEM_E = 32, 64  # the letters are timm's


class ResNeSt(ResidualNetwork):
    """ResNet with a stem of three 3x3 convolutions, split attention, and averages as downsampling.

    Args:
        depths: number of blocks in each of the four stages.
        stem_width: width of the first two convolutions; the third is twice as wide.
        widths: width of the bottlenecks in each stage.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, or `stem_width` is not a positive
            integer.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        stem_width: int,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        super().__init__(
            deep_stem(in_channels, (stem_width, stem_width, 2 * stem_width), small_images),
            SplitAttentionBottleneck,
            widths,
            depths,
            names=resnet.ROWS,
            pool=resnet.first_pool(small_images),
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def resnest14d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-14: depths (1, 1, 1, 1), a stem of 32, 32 and 64 channels."""
    return build("resnest14d", weights, ResNeSt, DEPTHS_14, STEM_D, **options)


@builder
def resnest26d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-26: depths (2, 2, 2, 2), a stem of 32, 32 and 64 channels."""
    return build("resnest26d", weights, ResNeSt, DEPTHS_26, STEM_D, **options)


@builder
def resnest50d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-50: depths (3, 4, 6, 3), a stem of 32, 32 and 64 channels."""
    return build("resnest50d", weights, ResNeSt, resnet.DEPTHS_50, STEM_D, **options)


@builder
def resnest101e(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-101: depths (3, 4, 23, 3), a stem of 64, 64 and 128 channels."""
    return build("resnest101e", weights, ResNeSt, resnet.DEPTHS_101, STEM_E, **options)


@builder
def resnest200e(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-200: depths (3, 24, 36, 3), a stem of 64, 64 and 128 channels."""
    return build("resnest200e", weights, ResNeSt, DEPTHS_200, STEM_E, **options)


@builder
def resnest269e(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNeSt:
    """ResNeSt-269: depths (3, 30, 48, 8), a stem of 64, 64 and 128 channels."""
    return build("resnest269e", weights, ResNeSt, DEPTHS_269, STEM_E, **options)
