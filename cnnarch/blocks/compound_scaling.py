"""Compound scaling: one table of MBConv stages, made wider and deeper by a variant's factors.

Source: Tan and Le, "EfficientNet", arXiv 1905.11946, sec. 3 and Table 1.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.mbconv import MBConv, round_channels

__all__ = ["Row", "Scaling", "mbconv_stages", "scaled_rows"]


class Scaling(NamedTuple):
    """How a variant scales the baseline, and its dropout: columns of the authors' table."""

    width: float
    depth: float
    resolution: int
    dropout: float

    @property
    def input_size(self) -> tuple[int, int, int]:
        """`(C, H, W)` of the variant's images."""
        return (3, self.resolution, self.resolution)


class Row(NamedTuple):
    """A row of Table 1: MBConv`expansion`, k`kernel_size`; the stride is its first layer's."""

    expansion: int
    kernel_size: int
    stride: int
    channels: int
    layers: int


def scaled_rows(
    table: Mapping[str, Row], scaling: Scaling, *, fixed_depth: tuple[str, ...] = ()
) -> dict[str, Row]:
    """`table` with its channels times the width, and its layers times the depth rounded up.

    Args:
        table: rows by name.
        scaling: the factors.
        fixed_depth: names of rows that keep their layers.

    Raises:
        ValueError: a factor that is not above 0.
    """
    check_positive("width", scaling.width)
    check_positive("depth", scaling.depth)
    return {
        name: row._replace(
            channels=round_channels(row.channels, scaling.width),
            layers=row.layers if name in fixed_depth else math.ceil(row.layers * scaling.depth),
        )
        for name, row in table.items()
    }


def mbconv_stages(
    in_channels: int, rows: Mapping[str, Row], block: Callable[..., MBConv], drop_path: float
) -> list[Stage]:
    """A stage for each row; of n blocks in all, block i drops its branch at i / n of `drop_path`.

    That is the authors' ramp: the first block is never dropped, and none at the full rate.
    """
    total = sum(row.layers for row in rows.values())
    ramp = iter([drop_path * i / total for i in range(total)])
    stages = []
    for row in rows.values():
        stage = Stage()
        for i in range(row.layers):
            stride = 1 if i else row.stride
            shape = (in_channels, row.channels, row.kernel_size, stride, row.expansion)
            stage.append(block(*shape, drop_path=next(ramp)))
            in_channels = row.channels
        stages.append(stage)
    return stages
