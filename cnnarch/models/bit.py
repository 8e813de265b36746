"""BiT: pre-activation ResNets without BatchNorm, for transfer (Kolesnikov et al., 2019)."""

from functools import partial
from typing import Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.pooling import ZeroPaddedMaxPool2d
from cnnarch.blocks.preactivation import PreActBottleneck
from cnnarch.blocks.weight_standardization import StandardizedConv2d
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet

__all__ = [
    "BiT",
    "resnetv2_50x1_bit",
    "resnetv2_50x3_bit",
    "resnetv2_101x1_bit",
    "resnetv2_101x3_bit",
    "resnetv2_152x2_bit",
    "resnetv2_152x4_bit",
]

GROUPS = 32  # the default of the GroupNorm paper (arXiv 1803.08494)


class BiT(ResidualNetwork):
    """BiT-ResNet: `PreActBottleneck` blocks with GroupNorm and `StandardizedConv2d`.

    The network is a pre-activation ResNet whose layers are all wider by the same factor. It has no
    BatchNorm, so an image's output does not depend on its batch, in training either. The stem is a
    convolution alone, and the last stage ends with the norm and ReLU that follow the last sum.

    Args:
        depths: number of blocks in each of the four stages.
        factor: factor by which all widths are multiplied, the paper's "x4".
        widths: width of ResNet's bottlenecks in each stage; the stem has the first stage's width.
        groups: number of groups in each GroupNorm; it must divide all widths.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, or an option is out of range.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        factor: int,
        widths: tuple[int, ...] = resnet.WIDTHS,
        groups: int = GROUPS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        check_integer("factor", factor, 1)
        norm = partial(nn.GroupNorm, groups)
        stem = conv_7x7(
            in_channels,
            factor * widths[0],
            small_images,
            conv=StandardizedConv2d,
            bias=False,
            norm=None,
            act=None,
        )
        super().__init__(
            stem,
            partial(PreActBottleneck, stride_in_1x1=False, norm=norm, conv=StandardizedConv2d),
            [factor * width for width in widths],
            depths,
            names=resnet.ROWS,
            pool=None if small_images else ZeroPaddedMaxPool2d(3, 2, 1),
            final_norm=norm,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def resnetv2_50x1_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-50x1: the widths of ResNet-50."""
    return build("resnetv2_50x1_bit", weights, BiT, resnet.DEPTHS_50, 1, **options)


@builder
def resnetv2_50x3_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-50x3: three times the widths of ResNet-50."""
    return build("resnetv2_50x3_bit", weights, BiT, resnet.DEPTHS_50, 3, **options)


@builder
def resnetv2_101x1_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-101x1: the widths of ResNet-101."""
    return build("resnetv2_101x1_bit", weights, BiT, resnet.DEPTHS_101, 1, **options)


@builder
def resnetv2_101x3_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-101x3: three times the widths of ResNet-101."""
    return build("resnetv2_101x3_bit", weights, BiT, resnet.DEPTHS_101, 3, **options)


@builder
def resnetv2_152x2_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-152x2: twice the widths of ResNet-152."""
    return build("resnetv2_152x2_bit", weights, BiT, resnet.DEPTHS_152, 2, **options)


@builder
def resnetv2_152x4_bit(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> BiT:
    """BiT-ResNet-152x4: four times the widths of ResNet-152."""
    return build("resnetv2_152x4_bit", weights, BiT, resnet.DEPTHS_152, 4, **options)
