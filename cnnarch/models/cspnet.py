"""CSPNet: stages whose blocks see only half of the channels (Wang et al., 2019)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, MakeAct, conv_7x7, remove_stride
from cnnarch.blocks.cross_stage import CrossStage
from cnnarch.blocks.darknet import DarknetResidual, leaky_relu
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.residual import Bottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.residual import drop_branches, zero_branches
from cnnarch.facts.builders import builder
from cnnarch.models import darknet, resnet
from cnnarch.models.darknet import DarknetOptions

__all__ = [
    "CSPDarknet",
    "CSPResNet",
    "cspdarknet53",
    "cspresnet50",
    "cspresnext50",
]

RESNET_NAMES = ("conv1", "stage1", "stage2", "stage3", "stage4")
STEM_CHANNELS = 64  # of the 7x7 convolution


class CSPStage(NamedTuple):
    """A stage: its number of blocks and its output channels.

    `width` is the number of channels of the blocks, half of the split map; `hidden` is that
    between a block's first and last convolution.
    """

    depth: int
    channels: int
    width: int
    hidden: int


CSPRESNET_50 = (
    CSPStage(3, 128, 128, 64),
    CSPStage(3, 256, 256, 128),
    CSPStage(5, 512, 512, 256),
    CSPStage(2, 1024, 1024, 512),
)
CSPRESNEXT_50 = (
    CSPStage(3, 256, 128, 128),
    CSPStage(3, 512, 256, 256),
    CSPStage(5, 1024, 512, 512),
    CSPStage(2, 2048, 1024, 1024),
)
CSPDARKNET_53 = (
    CSPStage(1, 64, 64, 32),
    CSPStage(2, 128, 64, 64),
    CSPStage(8, 256, 128, 128),
    CSPStage(8, 512, 256, 256),
    CSPStage(4, 1024, 512, 512),
)


class CSPResNet(ImageClassifier):
    """CSPResNet or CSPResNeXt: ResNet's stem, four stages with a `CrossStage`, pooled linear head.

    Each stage after the first starts with a 3x3 convolution with stride 2. The blocks are
    bottlenecks of constant width. The paper does not specify the initialization; this network uses
    He initialization.

    Args:
        rows: the depth and the numbers of channels of each stage.
        groups: number of groups in all 3x3 convolutions, 32 in CSPResNeXt.
        channels: number of channels of the stem.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last norm of each branch starts at zero, so that each
            block initially returns only its activated input.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        negative_slope: slope of the leaky ReLUs below zero. timm's checkpoints need 0.01.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `rows` does not have four entries, `groups` does not divide the numbers of
            channels, or a number is out of range.
    """

    def __init__(
        self,
        rows: Sequence[CSPStage],
        groups: int = 1,
        channels: int = STEM_CHANNELS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        negative_slope: float = 0.1,
    ) -> None:
        check_length("rows", rows, len(RESNET_NAMES) - 1)
        act = leaky_relu(negative_slope)
        stem = conv_7x7(in_channels, channels, small_images, act=act)
        stages: list[Stage] = []
        blocks: list[nn.Module] = []
        pool = resnet.first_pool(small_images)
        opening: dict[str, nn.Module] = {} if pool is None else {"pool": pool}
        for row in rows:
            if stages:
                downsample = ConvNormAct(channels, channels, 3, 2, groups=groups, act=act)
                opening = {"downsample": downsample}
            units = [_bottleneck(row, groups, act) for _ in range(row.depth)]
            cross = CrossStage(channels, row.channels, row.width, units, act=act, linear=True)
            stages.append(Stage(cross, **opening))
            blocks += units
            channels = row.channels
        drop_branches(blocks, drop_path)
        if zero_init_residual:
            zero_branches(blocks)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=RESNET_NAMES)


def _bottleneck(row: CSPStage, groups: int, act: MakeAct) -> Bottleneck:
    quarter, width = row.width // 4, row.hidden // groups
    return Bottleneck(row.width, quarter, groups=groups, group_width=width, act=act)


class CSPDarknet(ImageClassifier):
    """CSPDarknet: a 3x3 stem with stride 1, five stages with a `CrossStage`, pooled linear head.

    Each stage starts with a 3x3 convolution with stride 2. The blocks are `DarknetResidual`. The
    paper does not specify the initialization; this network uses He initialization.

    Args:
        rows: the depth and the numbers of channels of each stage.
        channels: number of channels of the stem.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last norm of each branch starts at zero, so that each
            block initially returns its input.
        small_images: use stride 1 in the first two stages; 32x32 images give 4x4 maps.
        negative_slope: slope of the leaky ReLUs below zero. timm's checkpoints need 0.01.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 1, 2, 4, 8, 16 and 32.

    Raises:
        ValueError: `rows` does not have five entries, or a number is out of range.
    """

    def __init__(
        self,
        rows: Sequence[CSPStage],
        channels: int = darknet.CHANNELS_53[0],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        negative_slope: float = 0.1,
    ) -> None:
        check_length("rows", rows, len(darknet.NAMES) - 1)
        act = leaky_relu(negative_slope)
        stem = ConvNormAct(in_channels, channels, 3, act=act)
        stages: list[Stage] = []
        blocks: list[nn.Module] = []
        for row in rows:
            downsample = ConvNormAct(channels, row.channels, 3, 2, act=act)
            units = [DarknetResidual(row.width, row.hidden, act=act) for _ in range(row.depth)]
            cross = CrossStage(row.channels, row.channels, row.width, units, act=act)
            stages.append(Stage(cross, downsample=downsample))
            blocks += units
            channels = row.channels
        drop_branches(blocks, drop_path)
        if zero_init_residual:
            zero_branches(blocks)
        if small_images:
            for stage in stages[:2]:
                remove_stride(stage.get_submodule("downsample"))
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=darknet.NAMES)


@builder
def cspresnet50(*, weights: WeightsSource = None, **options: Unpack[DarknetOptions]) -> CSPResNet:
    """CSPResNet-50: depths (3, 3, 5, 2), bottlenecks at half width."""
    return build("cspresnet50", weights, CSPResNet, CSPRESNET_50, **options)


@builder
def cspresnext50(*, weights: WeightsSource = None, **options: Unpack[DarknetOptions]) -> CSPResNet:
    """CSPResNeXt-50: depths (3, 3, 5, 2), bottlenecks with 32 groups and no reduction."""
    return build("cspresnext50", weights, CSPResNet, CSPRESNEXT_50, 32, **options)


@builder
def cspdarknet53(*, weights: WeightsSource = None, **options: Unpack[DarknetOptions]) -> CSPDarknet:
    """CSPDarknet-53: the depths of Darknet-53, (1, 2, 8, 8, 4)."""
    return build("cspdarknet53", weights, CSPDarknet, CSPDARKNET_53, **options)
