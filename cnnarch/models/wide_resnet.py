"""Wide ResNet: bottlenecks with a wider 3x3 convolution (Zagoruyko and Komodakis, 2016)."""

from typing import Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.residual import Bottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet

__all__ = [
    "WideResNet",
    "wide_resnet50_2",
    "wide_resnet101_2",
]

K = 2  # the widening factor in the names


class WideResNet(ResidualNetwork):
    """ResNet whose bottlenecks are k times as wide inside; their outputs keep ResNet's widths.

    The 3x3 convolutions also have the stride.

    Args:
        depths: number of blocks in each of the four stages.
        k: widening factor of the 3x3 convolutions.
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
        ValueError: `depths` is not four positive integers, or `k` is not a positive integer.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        k: int,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        check_integer("k", k, 1)

        def make_block(in_channels: int, channels: int, stride: int) -> Bottleneck:
            return Bottleneck(in_channels, channels, stride, group_width=k * channels)

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
def wide_resnet50_2(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> WideResNet:
    """Wide ResNet-50-2: twice ResNet-50's 3x3 widths, depths (3, 4, 6, 3)."""
    return build("wide_resnet50_2", weights, WideResNet, resnet.DEPTHS_50, K, **options)


@builder
def wide_resnet101_2(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> WideResNet:
    """Wide ResNet-101-2: twice ResNet-101's 3x3 widths, depths (3, 4, 23, 3)."""
    return build("wide_resnet101_2", weights, WideResNet, resnet.DEPTHS_101, K, **options)
