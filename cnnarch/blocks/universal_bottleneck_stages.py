"""Stages of MobileNet V4, built from the rows of its paper's tables.

Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", arXiv 2404.10518,
appendix.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from torch import nn

from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.inverted_residual import InvertedResidual, round_channels
from cnnarch.blocks.universal_bottleneck import UniversalInvertedBottleneck


class Conv2D(NamedTuple):
    """A row "Conv2D"."""

    kernel_size: int
    channels: int

    def build(self, inputs: int, outputs: int, stride: int, _drop_path: float) -> nn.Module:
        """Return the convolution, which has no branch to drop."""
        return ConvNormAct(inputs, outputs, self.kernel_size, stride)


class FusedIB(NamedTuple):
    """A row "FusedIB": a full 3x3 convolution that expands, and a 1x1 convolution."""

    expansion: int
    channels: int

    def build(self, inputs: int, outputs: int, stride: int, drop_path: float) -> nn.Module:
        """Return the block."""
        shape = (inputs, round_channels(inputs * self.expansion), outputs, 3, stride)
        return InvertedResidual(*shape, fused=True, drop_path=drop_path, act=nn.ReLU)


class UIB(NamedTuple):
    """A row "ExtraDW", "IB", "ConvNext" or "FFN", with its kernels "DW K1" and "DW K2"."""

    start: int | None
    middle: int | None
    expansion: int
    channels: int

    def build(self, inputs: int, outputs: int, stride: int, drop_path: float) -> nn.Module:
        """Return the block."""
        shape = (inputs, round_channels(inputs * self.expansion), outputs)
        kernels = (self.start, self.middle)
        return UniversalInvertedBottleneck(*shape, *kernels, stride, drop_path=drop_path)


V4Row = Conv2D | FusedIB | UIB


def universal_bottleneck_stages(
    in_channels: int,
    stages: Iterable[Sequence[V4Row]],
    width: float = 1.0,
    drop_path: float = 0.0,
) -> list[Stage]:
    """Return the stages; the first block of each has stride 2.

    Block i of all n blocks has the drop rate `drop_path` * i / n.

    Args:
        in_channels: number of channels that the stem returns.
        stages: the rows of each stage.
        width: factor by which the channels in the rows are multiplied, see `round_channels`.
        drop_path: upper bound of the drop rates, in [0, 1).
    """
    tables = list(stages)
    total = sum(map(len, tables))
    ramp = iter([drop_path * i / total for i in range(total)])
    built = []
    for rows in tables:
        stage = Stage()
        for i, row in enumerate(rows):
            channels = round_channels(row.channels, width)
            stage.append(row.build(in_channels, channels, 1 if i else 2, next(ramp)))
            in_channels = channels
        built.append(stage)
    return built
