"""Dual Path Network: a ResNet and a DenseNet in the same blocks (Chen et al., 2017)."""

from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.dual_path import DualPath
from cnnarch.blocks.head import ClassifierHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["DPN", "dpn68", "dpn92", "dpn98", "dpn107", "dpn131"]

NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5")
NORM = partial(nn.BatchNorm2d, eps=1e-3)  # MXNet's default, which the authors' code uses


class DPNRow(NamedTuple):
    """A column of Table 1, such as "DPN-92 (32x3d)".

    Args:
        stem: number of channels in conv1.
        kernel_size: side length of the kernel in conv1, in pixels.
        groups: number of groups in the 3x3 convolutions.
        group_width: channels per group in conv2. Each later stage doubles this number.
        channels: channels of the residual path in conv2. Each later stage doubles this number.
        depths: number of blocks in conv2 to conv5.
        growth_rates: channels that a block in conv2 to conv5 appends to the dense path.
    """

    stem: int
    kernel_size: int
    groups: int
    group_width: int
    channels: int
    depths: tuple[int, ...]
    growth_rates: tuple[int, ...]


DPN_68 = DPNRow(10, 3, 32, 4, 64, (3, 4, 12, 3), (16, 32, 32, 64))
DPN_92 = DPNRow(64, 7, 32, 3, 256, (3, 4, 20, 3), (16, 32, 24, 128))
DPN_98 = DPNRow(96, 7, 40, 4, 256, (3, 6, 20, 3), (16, 32, 32, 128))
DPN_107 = DPNRow(128, 7, 50, 4, 256, (4, 8, 20, 3), (20, 64, 64, 128))
DPN_131 = DPNRow(128, 7, 40, 4, 256, (4, 8, 28, 3), (16, 32, 32, 128))


class DPN(ImageClassifier):
    """Dual Path Network: one convolution, four stages of `DualPath`, pooled linear head.

    The last stage ends with BatchNorm and ReLU, because blocks end with a sum. The paper does not
    specify the initialization; this network uses He initialization.

    Args:
        row: the network's column of Table 1.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: a number in `row` is not a positive integer, `row` does not have four depths
            and growth rates, or `dropout` is out of range.
    """

    def __init__(
        self,
        row: DPNRow,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_length("depths", row.depths, 4)
        check_length("growth_rates", row.growth_rates, 4)
        kernel_size, stride = (3, 1) if small_images else (row.kernel_size, 2)
        stem = ConvNormAct(in_channels, row.stem, kernel_size, stride, norm=NORM)
        opening = {} if small_images else {"pool": nn.MaxPool2d(3, 2, 1)}
        stages: list[Stage] = []
        channels = row.stem
        for i, depth in enumerate(row.depths):
            check_integer("depth of a stage", depth, 1)
            stage = Stage(**({} if i else opening))
            for j in range(depth):
                block = _block(row, i, j, channels)
                stage.append(block)
                channels = block.out_channels
            stages.append(stage)
        stages[-1].add_module("norm", NORM(channels))
        stages[-1].add_module("act", nn.ReLU())
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=NAMES)


def _block(row: DPNRow, stage: int, index: int, in_channels: int) -> DualPath:
    """Return a block of a stage, both counted from 0. The first block has the projection."""
    return DualPath(
        in_channels,
        row.channels * 2**stage,
        2 if stage and index == 0 else 1,
        growth_rate=row.growth_rates[stage],
        groups=row.groups,
        group_width=row.group_width * 2**stage,
        project=index == 0,
        norm=NORM,
    )


@builder
def dpn68(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DPN:
    """DPN-68 (32x4d): a small network with a 3x3 stem and a narrow residual path."""
    return build("dpn68", weights, DPN, DPN_68, **options)


@builder
def dpn92(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DPN:
    """DPN-92 (32x3d): depths (3, 4, 20, 3), growth rates (16, 32, 24, 128)."""
    return build("dpn92", weights, DPN, DPN_92, **options)


@builder
def dpn98(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DPN:
    """DPN-98 (40x4d): depths (3, 6, 20, 3), growth rates (16, 32, 32, 128)."""
    return build("dpn98", weights, DPN, DPN_98, **options)


@builder
def dpn107(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DPN:
    """DPN-107 (50x4d): depths (4, 8, 20, 3), growth rates (20, 64, 64, 128)."""
    return build("dpn107", weights, DPN, DPN_107, **options)


@builder
def dpn131(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> DPN:
    """DPN-131 (40x4d): depths (4, 8, 28, 3), growth rates (16, 32, 32, 128)."""
    return build("dpn131", weights, DPN, DPN_131, **options)
