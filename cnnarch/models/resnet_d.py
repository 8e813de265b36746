"""ResNet-D: a deep stem, as in ResNet-C, and pooled shortcuts (He et al., 2018)."""

from functools import partial
from typing import Unpack

from cnnarch.blocks.conv import deep_stem
from cnnarch.blocks.residual import Bottleneck, MakeAttention, Residual
from cnnarch.blocks.shortcut import MakeShortcut, pooled_projection, projection
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet

__all__ = [
    "ResNetD",
    "resnet18d",
    "resnet34d",
    "resnet50c",
    "resnet50d",
    "resnet101d",
    "resnet152d",
    "resnet200d",
]

DEPTHS_200 = (3, 24, 36, 3)


class ResNetD(ResidualNetwork):
    """ResNet whose stem is three 3x3 convolutions and whose strided shortcuts start with a pool.

    The 3x3 convolutions of bottlenecks have the stride.

    Args:
        block: `Residual` (two 3x3) or `Bottleneck` (1x1, 3x3, 1x1).
        depths: number of blocks in each of the four stages.
        make_shortcut: the shortcut in blocks that change the shape: `pooled_projection` in
            ResNet-D, `projection` in ResNet-C.
        attention: creates each residual branch's last layer from its number of channels; None
            omits it.
        widths: width of the blocks in each stage. The stem's last convolution has the first
            stage's width, the others half as many channels.
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
        ValueError: `depths` is not four positive integers.
    """

    def __init__(
        self,
        block: type[Residual | Bottleneck],
        depths: tuple[int, ...],
        make_shortcut: MakeShortcut = pooled_projection,
        attention: MakeAttention | None = None,
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
            partial(block, make_shortcut=make_shortcut, attention=attention),
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
def resnet50c(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-50-C: ResNet-50 with a deep stem."""
    return build("resnet50c", weights, ResNetD, Bottleneck, resnet.DEPTHS_50, projection, **options)


@builder
def resnet18d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-18-D: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("resnet18d", weights, ResNetD, Residual, resnet.DEPTHS_18, **options)


@builder
def resnet34d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-34-D: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("resnet34d", weights, ResNetD, Residual, resnet.DEPTHS_34, **options)


@builder
def resnet50d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-50-D: bottlenecks, depths (3, 4, 6, 3)."""
    return build("resnet50d", weights, ResNetD, Bottleneck, resnet.DEPTHS_50, **options)


@builder
def resnet101d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-101-D: bottlenecks, depths (3, 4, 23, 3)."""
    return build("resnet101d", weights, ResNetD, Bottleneck, resnet.DEPTHS_101, **options)


@builder
def resnet152d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-152-D: bottlenecks, depths (3, 8, 36, 3)."""
    return build("resnet152d", weights, ResNetD, Bottleneck, resnet.DEPTHS_152, **options)


@builder
def resnet200d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ResNet-200-D: bottlenecks, depths (3, 24, 36, 3)."""
    return build("resnet200d", weights, ResNetD, Bottleneck, DEPTHS_200, **options)
