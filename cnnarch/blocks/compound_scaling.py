"""Compound scaling: scale the widths and depths in a table of MBConv stages.

Source: Tan and Le, "EfficientNet", arXiv 1905.11946, sec. 3 and Table 1.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.inverted_residual import round_channels


class Scaling(NamedTuple):
    """A row of the authors' table: the scaling factors, resolution and dropout of a variant."""

    width: float
    depth: float
    resolution: int
    dropout: float


class MBConvRow(NamedTuple):
    """A row of Table 1, such as "MBConv6, k5x5". Only the first layer uses the stride."""

    expansion: int
    kernel_size: int
    stride: int
    channels: int
    layers: int


def scale_rows(
    table: Mapping[str, MBConvRow], scaling: Scaling, *, fixed_depth: tuple[str, ...] = ()
) -> dict[str, MBConvRow]:
    """Return `table` with channels scaled by the width factor and layers by the depth factor.

    Channel counts are rounded by `round_channels`, and layer counts are rounded up.

    Args:
        table: the rows, keyed by name.
        scaling: the scaling factors.
        fixed_depth: names of the rows whose number of layers is not scaled.

    Raises:
        ValueError: a factor is not greater than 0.
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
