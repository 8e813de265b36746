"""ResNet: stages of blocks that add their input to their output (He et al., 2015)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import Bottleneck, Residual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ModelOptions
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


class Depths(NamedTuple):
    """A column of Table 1: the number of blocks in each row."""

    conv2_x: int
    conv3_x: int
    conv4_x: int
    conv5_x: int


DEPTHS_18 = Depths(2, 2, 2, 2)
DEPTHS_34 = DEPTHS_50 = Depths(3, 4, 6, 3)
DEPTHS_101 = Depths(3, 4, 23, 3)
DEPTHS_152 = Depths(3, 8, 36, 3)


class ResNetOptions(ModelOptions, total=False):
    """Options of the residual networks."""

    dropout: float
    small_images: bool
    stride_in_1x1: bool


class Plain(nn.Sequential):
    """The paper's counterpart of `Residual`: the same two 3x3 convolutions, no shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.out_channels = channels
        self.conv1 = ConvNormAct(in_channels, channels, 3, stride)
        self.conv2 = ConvNormAct(channels, channels, 3)


def stem_7x7(in_channels: int, channels: int, small_images: bool) -> ConvNormAct:
    """conv1 of Table 1; 3x3 with stride 1 for small images."""
    kernel_size, stride = (3, 1) if small_images else (7, 2)
    return ConvNormAct(in_channels, channels, kernel_size, stride)


def max_pool(small_images: bool) -> nn.MaxPool2d | None:
    """The pool that opens conv2_x in Table 1; small images have none."""
    return None if small_images else nn.MaxPool2d(3, 2, 1)


class ResNet(ResidualNetwork):
    """Residual network: 7x7 stem, four stages of blocks, pooled linear head.

    Args:
        block: `Residual` (two 3x3), `Bottleneck` (1x1, 3x3, 1x1) or `Plain` (no shortcut).
        depths: number of blocks in each of the four stages.
        widths: width of the blocks in each stage; the stem is as wide as the first.
        num_classes: width of the logits; 0 returns the pooled features.
        in_channels: channels of the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: 3x3 stem of stride 1 and no max-pool, so that 32 pixels leave a 4x4 map.
        stride_in_1x1: whether a bottleneck's first 1x1 takes the stride, as in the paper.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have stride 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` does not name four stages of a block or more, or the block has no
            1x1 to stride in.
    """

    def __init__(
        self,
        block: type[Residual | Bottleneck | Plain],
        depths: tuple[int, ...],
        widths: tuple[int, ...] = WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        make = partial(block)
        if stride_in_1x1:
            if not issubclass(block, Bottleneck):
                raise ValueError(f"stride_in_1x1 needs Bottleneck blocks, got {block.__name__}")
            make = partial(block, stride_in_1x1=True)
        super().__init__(
            stem_7x7(in_channels, widths[0], small_images),
            make,
            widths,
            depths,
            names=ROWS,
            pool=max_pool(small_images),
            num_classes=num_classes,
            dropout=dropout,
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
    """Plain-18: ResNet-18 without its shortcuts, which the paper compares it with."""
    return build("plain18", weights, ResNet, Plain, DEPTHS_18, **options)


@builder
def plain34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """Plain-34: ResNet-34 without its shortcuts, which the paper compares it with."""
    return build("plain34", weights, ResNet, Plain, DEPTHS_34, **options)
