"""ResNet: stages of blocks that add their input to their output (He et al., 2015)."""

from functools import partial
from typing import Any, Unpack

from torch import nn

from cnnarch.blocks.conv import ConvNormAct, conv_7x7
from cnnarch.blocks.residual import Bottleneck, Residual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder

__all__ = [
    "ResNet",
    "plain18",
    "plain34",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
]

ROWS = ("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x")
WIDTHS = (64, 128, 256, 512)  # conv2_x to conv5_x of Table 1
DEPTHS_18 = (2, 2, 2, 2)  # number of blocks in conv2_x to conv5_x of Table 1
DEPTHS_34 = DEPTHS_50 = (3, 4, 6, 3)
DEPTHS_101 = (3, 4, 23, 3)
DEPTHS_152 = (3, 8, 36, 3)


class ResNetOptions(ResidualOptions, total=False):
    """Options of the residual networks."""

    stride_in_1x1: bool


class PlainBlock(nn.Sequential):
    """Two 3x3 convolutions without a shortcut, the paper's baseline for `Residual`.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = ConvNormAct(in_channels, channels, 3, stride)
        self.conv2 = ConvNormAct(channels, channels, 3)


def first_pool(small_images: bool) -> nn.MaxPool2d | None:
    """Return the pool at the start of conv2_x in Table 1, or None for small images."""
    return None if small_images else nn.MaxPool2d(3, 2, 1)


def stride_options(block: type[nn.Module], stride_in_1x1: bool) -> dict[str, Any]:
    """Return the block's keyword arguments for the position of the stride.

    Raises:
        ValueError: the stride is to be in the first 1x1, but the blocks have none.
    """
    if stride_in_1x1 and not issubclass(block, Bottleneck):
        raise ValueError(f"stride_in_1x1 requires Bottleneck blocks, got {block.__name__}")
    return {"stride_in_1x1": True} if stride_in_1x1 else {}


class ResNet(ResidualNetwork):
    """Residual network: 7x7 stem, four stages of blocks, pooled linear head.

    Args:
        block: `Residual` (two 3x3), `Bottleneck` (1x1, 3x3, 1x1) or `PlainBlock` (no shortcut).
        depths: number of blocks in each of the four stages.
        widths: width of the blocks in each stage; the stem has the first stage's width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        stride_in_1x1: whether a bottleneck has its stride in the first 1x1, as in the paper.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, or `stride_in_1x1` is set for blocks
            without a 1x1 convolution.
    """

    def __init__(
        self,
        block: type[Residual | Bottleneck | PlainBlock],
        depths: tuple[int, ...],
        widths: tuple[int, ...] = WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__(
            conv_7x7(in_channels, widths[0], small_images),
            partial(block, **stride_options(block, stride_in_1x1)),
            widths,
            depths,
            names=ROWS,
            pool=first_pool(small_images),
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def resnet18(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("resnet18", weights, ResNet, Residual, DEPTHS_18, **options)


@builder
def resnet34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("resnet34", weights, ResNet, Residual, DEPTHS_34, **options)


@builder
def resnet50(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50: bottlenecks, depths (3, 4, 6, 3)."""
    return build("resnet50", weights, ResNet, Bottleneck, DEPTHS_50, **options)


@builder
def resnet101(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101: bottlenecks, depths (3, 4, 23, 3)."""
    return build("resnet101", weights, ResNet, Bottleneck, DEPTHS_101, **options)


@builder
def resnet152(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152: bottlenecks, depths (3, 8, 36, 3)."""
    return build("resnet152", weights, ResNet, Bottleneck, DEPTHS_152, **options)


@builder
def plain18(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """Plain-18: ResNet-18 without shortcuts, a baseline in the paper."""
    return build("plain18", weights, ResNet, PlainBlock, DEPTHS_18, **options)


@builder
def plain34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """Plain-34: ResNet-34 without shortcuts, a baseline in the paper."""
    return build("plain34", weights, ResNet, PlainBlock, DEPTHS_34, **options)
