"""Darknet-53: a residual network without pools, made for YOLOv3 (Redmon and Farhadi, 2018)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, remove_stride
from cnnarch.blocks.darknet import DarknetResidual, leaky_relu
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import drop_branches, zero_branches
from cnnarch.facts.builders import builder

__all__ = ["Darknet", "darknet53"]

NAMES = ("conv1", "stage1", "stage2", "stage3", "stage4", "stage5")
CHANNELS_53 = (32, 64, 128, 256, 512, 1024)  # of the first convolution and the stages of Table 1
DEPTHS_53 = (1, 2, 8, 8, 4)  # number of residual blocks in each stage of Table 1


class DarknetOptions(ResidualOptions, total=False):
    """Options of the networks with leaky ReLUs."""

    negative_slope: float


class Darknet(ImageClassifier):
    """Darknet: a 3x3 stem with stride 1, five stages of `DarknetResidual`, pooled linear head.

    Each stage starts with a 3x3 convolution with stride 2. The paper does not specify the
    initialization; this network uses He initialization.

    Args:
        channels: number of channels of the stem and of each stage.
        depths: number of residual blocks in each stage.
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
        ValueError: `channels` does not have six entries or `depths` five, a stage is empty, or an
            option is out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        negative_slope: float = 0.1,
    ) -> None:
        check_length("channels", channels, len(NAMES))
        check_length("depths", depths, len(NAMES) - 1)
        act = leaky_relu(negative_slope)
        stages: list[Stage] = []
        blocks: list[nn.Module] = []
        for (narrow, width), depth in zip(pairwise(channels), depths, strict=True):
            check_integer("depth of a stage", depth, 1)
            downsample = ConvNormAct(narrow, width, 3, 2, act=act)
            units = [DarknetResidual(width, act=act) for _ in range(depth)]
            stages.append(Stage(*units, downsample=downsample))
            blocks += units
        drop_branches(blocks, drop_path)
        if zero_init_residual:
            zero_branches(blocks)
        if small_images:
            for stage in stages[:2]:
                remove_stride(stage.get_submodule("downsample"))
        super().__init__(
            ConvNormAct(in_channels, channels[0], 3, act=act),
            stages,
            ClassifierHead(channels[-1], num_classes, dropout=dropout),
            names=NAMES,
        )


@builder
def darknet53(*, weights: WeightsSource = None, **options: Unpack[DarknetOptions]) -> Darknet:
    """Darknet-53 for ImageNet, with 52 convolutions and a linear layer."""
    return build("darknet53", weights, Darknet, CHANNELS_53, DEPTHS_53, **options)
