"""ResNet-RS: ResNet-D with squeeze-and-excitation, scaled in depth (Bello et al., 2021)."""

from functools import partial
from typing import Unpack

from cnnarch.blocks.conv import ConvNormAct, deep_stem
from cnnarch.blocks.residual import Bottleneck
from cnnarch.blocks.shortcut import pooled_projection
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet_d import DEPTHS_200
from cnnarch.models.se_resnet import squeeze_excite

__all__ = [
    "ResNetRS",
    "resnetrs50",
    "resnetrs101",
    "resnetrs152",
    "resnetrs200",
    "resnetrs270",
    "resnetrs350",
    "resnetrs420",
]

SQUEEZE_EXCITE = partial(squeeze_excite, reduction=4)
DEPTHS_270 = (4, 29, 53, 4)  # number of blocks in conv2_x to conv5_x
DEPTHS_350 = (4, 36, 72, 4)
DEPTHS_420 = (4, 44, 87, 4)


class ResNetRS(ResidualNetwork):
    """ResNet-D with squeeze-and-excitation, and a strided convolution in place of the max-pool.

    Args:
        depths: number of blocks in each of the four stages.
        widths: width of the bottlenecks in each stage. The stem's last convolution has the first
            stage's width, the others half as many channels.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use stride 1 in the stem and in the convolution that replaces the pool; 32x32
            images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        width = widths[0]
        super().__init__(
            deep_stem(in_channels, (width // 2, width // 2, width), small_images),
            partial(Bottleneck, make_shortcut=pooled_projection, attention=SQUEEZE_EXCITE),
            widths,
            depths,
            names=resnet.ROWS,
            pool=ConvNormAct(width, width, 3, 1 if small_images else 2),
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def resnetrs50(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-50: depths (3, 4, 6, 3)."""
    return build("resnetrs50", weights, ResNetRS, resnet.DEPTHS_50, **options)


@builder
def resnetrs101(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-101: depths (3, 4, 23, 3)."""
    return build("resnetrs101", weights, ResNetRS, resnet.DEPTHS_101, **options)


@builder
def resnetrs152(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-152: depths (3, 8, 36, 3)."""
    return build("resnetrs152", weights, ResNetRS, resnet.DEPTHS_152, **options)


@builder
def resnetrs200(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-200: depths (3, 24, 36, 3)."""
    return build("resnetrs200", weights, ResNetRS, DEPTHS_200, **options)


@builder
def resnetrs270(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-270: depths (4, 29, 53, 4)."""
    return build("resnetrs270", weights, ResNetRS, DEPTHS_270, **options)


@builder
def resnetrs350(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-350: depths (4, 36, 72, 4)."""
    return build("resnetrs350", weights, ResNetRS, DEPTHS_350, **options)


@builder
def resnetrs420(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetRS:
    """ResNet-RS-420: depths (4, 44, 87, 4)."""
    return build("resnetrs420", weights, ResNetRS, DEPTHS_420, **options)
