"""ResNet: stages of blocks that add their input to their output (He et al., 2015)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch._cards import CardRow, Paper, Stated, register
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.residual import Bottleneck, Residual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.contract.residual import residual_stages

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

PAPER = Paper(
    "Deep Residual Learning for Image Recognition", "He, Zhang, Ren, Sun", 2015, "1512.03385"
)
OPTION_B = (
    "Shortcuts that change the shape are projections (option B), as in torchvision's checkpoint; "
    "the paper trained this depth with zero-padded ones (option A) alone."
)
V1_5 = (
    "The 3x3 convolution takes the stride, not the first 1x1 (v1.5, as in torchvision's "
    "checkpoint): more multiply-adds, the same parameters; stride_in_1x1=True is the paper's."
)
NAMES = ("conv1", "conv2_x", "conv3_x", "conv4_x", "conv5_x")
WIDTHS = (64, 128, 256, 512)  # conv2_x to conv5_x of Table 1


class Depths(NamedTuple):
    """Blocks of each stage: the columns of Table 1, whose rows are the stages."""

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


class ResNet(ImageClassifier):
    """Residual network: 7x7 stem, four stages of blocks, pooled linear head.

    Args:
        block: `Residual` (two 3x3), `Bottleneck` (1x1, 3x3, 1x1) or `Plain` (no shortcut).
        depths: number of blocks in each of the four stages.
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
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        stem = ConvNormAct(in_channels, WIDTHS[0], kernel_size, stride)
        pool = None if small_images else nn.MaxPool2d(3, 2, 1)  # opens conv2_x, as in Table 1
        stages, channels = residual_stages(make, WIDTHS, depths, WIDTHS[0], pool)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=NAMES)


@register(
    PAPER,
    params=11_689_512,
    macs=1_814_073_344,
    departs=(OPTION_B,),
    stated=(
        Stated("macs", "1.8B", "Table 1"),
        Stated("top1_err", "27.88", "Table 2, 10-crop, option A"),
    ),
)
def resnet18(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-18: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("resnet18", weights, ResNet, Residual, DEPTHS_18, **options)


@register(
    PAPER,
    params=21_797_672,
    macs=3_663_761_408,
    stated=(
        Stated("macs", "3.6B", "Table 1"),
        Stated("top1_err", "24.52", "Table 3, 10-crop, option B"),
        Stated("top5_err", "7.46", "Table 3, 10-crop, option B"),
    ),
)
def resnet34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-34: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("resnet34", weights, ResNet, Residual, DEPTHS_34, **options)


def _paper_stride(params: int, macs: int, *stated: Stated) -> tuple[CardRow, ...]:
    return (CardRow({"stride_in_1x1": True}, params, macs, stated=stated),)


@register(
    PAPER,
    params=25_557_032,
    macs=4_089_184_256,
    departs=(V1_5,),
    rows=_paper_stride(
        25_557_032,
        3_857_973_248,
        Stated("macs", "3.8B", "Table 1"),
        Stated("top1_err", "22.85", "Table 3, 10-crop"),
        Stated("top5_err", "6.71", "Table 3, 10-crop"),
    ),
)
def resnet50(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-50: bottlenecks, depths (3, 4, 6, 3)."""
    return build("resnet50", weights, ResNet, Bottleneck, DEPTHS_50, **options)


@register(
    PAPER,
    params=44_549_160,
    macs=7_801_405_440,
    departs=(V1_5,),
    rows=_paper_stride(
        44_549_160,
        7_570_194_432,
        Stated("macs", "7.6B", "Table 1"),
        Stated("top1_err", "21.75", "Table 3, 10-crop"),
        Stated("top5_err", "6.05", "Table 3, 10-crop"),
    ),
)
def resnet101(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-101: bottlenecks, depths (3, 4, 23, 3)."""
    return build("resnet101", weights, ResNet, Bottleneck, DEPTHS_101, **options)


@register(
    PAPER,
    params=60_192_808,
    macs=11_513_626_624,
    departs=(V1_5,),
    rows=_paper_stride(
        60_192_808,
        11_282_415_616,
        Stated("macs", "11.3B", "Table 1"),
        Stated("top1_err", "21.43", "Table 3, 10-crop"),
        Stated("top5_err", "5.71", "Table 3, 10-crop"),
    ),
)
def resnet152(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """ResNet-152: bottlenecks, depths (3, 8, 36, 3)."""
    return build("resnet152", weights, ResNet, Bottleneck, DEPTHS_152, **options)


@register(
    PAPER,
    params=11_515_688,
    macs=1_794_805_760,
    stated=(
        Stated("macs", "1.8B", "Table 1"),
        Stated("top1_err", "27.94", "Table 2, 10-crop"),
    ),
)
def plain18(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """Plain-18: ResNet-18 without its shortcuts, which the paper compares it with."""
    return build("plain18", weights, ResNet, Plain, DEPTHS_18, **options)


@register(
    PAPER,
    params=21_623_848,
    macs=3_644_493_824,
    stated=(
        Stated("macs", "3.6B", "Table 1"),
        Stated("top1_err", "28.54", "Table 2, 10-crop"),
        Stated("top5_err", "10.02", "Table 3, 10-crop"),
    ),
)
def plain34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> ResNet:
    """Plain-34: ResNet-34 without its shortcuts, which the paper compares it with."""
    return build("plain34", weights, ResNet, Plain, DEPTHS_34, **options)
