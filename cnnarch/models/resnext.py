"""ResNeXt: bottlenecks with a grouped 3x3 convolution (Xie et al., 2016)."""

from typing import Unpack

from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.residual import Bottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork, Template, group_width_at
from cnnarch.facts.builders import builder
from cnnarch.models import resnet

__all__ = [
    "ResNeXt",
    "resnext50_32x4d",
    "resnext101_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
]

T_32X4D = Template(32, 4)
T_32X8D = Template(32, 8)
T_64X4D = Template(64, 4)


class ResNeXt(ResidualNetwork):
    """ResNet with grouped 3x3 convolutions in its bottlenecks, which also have the stride.

    Args:
        depths: number of blocks in each of the four stages.
        cardinality: number of groups in the 3x3 convolutions, the paper's C.
        group_width: number of channels per group in conv2_x, the paper's d; doubled in each later
            stage.
        widths: width of ResNet's bottleneck in each stage; the stem has the first stage's width.
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
        ValueError: `depths` is not four positive integers, or a stage's number of channels per
            group is not an integer.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        cardinality: int,
        group_width: int,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        def make_block(in_channels: int, channels: int, stride: int) -> Bottleneck:
            width = group_width_at(channels, widths[0], group_width)
            return Bottleneck(in_channels, channels, stride, groups=cardinality, group_width=width)

        super().__init__(
            conv_7x7(in_channels, widths[0], small_images),
            make_block,
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
def resnext50_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> ResNeXt:
    """ResNeXt-50: 32 groups of 4 channels, depths (3, 4, 6, 3)."""
    return build("resnext50_32x4d", weights, ResNeXt, resnet.DEPTHS_50, *T_32X4D, **options)


@builder
def resnext101_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> ResNeXt:
    """ResNeXt-101: 32 groups of 4 channels, depths (3, 4, 23, 3)."""
    return build("resnext101_32x4d", weights, ResNeXt, resnet.DEPTHS_101, *T_32X4D, **options)


@builder
def resnext101_32x8d(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> ResNeXt:
    """ResNeXt-101: 32 groups of 8 channels, depths (3, 4, 23, 3)."""
    return build("resnext101_32x8d", weights, ResNeXt, resnet.DEPTHS_101, *T_32X8D, **options)


@builder
def resnext101_64x4d(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> ResNeXt:
    """ResNeXt-101: 64 groups of 4 channels, depths (3, 4, 23, 3)."""
    return build("resnext101_64x4d", weights, ResNeXt, resnet.DEPTHS_101, *T_64X4D, **options)
