"""Stages of inverted residuals, built from the rows of a paper's table."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from torch import nn

from cnnarch.blocks.checkpointing import Stage


class StageRow(Protocol):
    """A row of a paper's table: `layers` equal blocks, of which the first has the stride."""

    @property
    def channels(self) -> int:
        """Number of output channels."""

    @property
    def layers(self) -> int:
        """Number of blocks."""

    @property
    def stride(self) -> int:
        """Stride of the first block."""


Row = TypeVar("Row", bound=StageRow)


def inverted_residual_stages(
    in_channels: int,
    rows: Iterable[Row],
    block: Callable[[Row, int, int, float], nn.Module],
    drop_path: float = 0.0,
) -> list[Stage]:
    """Return one stage per row; block i of all n blocks has the drop rate `drop_path` * i / n.

    This is the EfficientNet authors' schedule: the first block is never dropped, and no block
    reaches the full rate.

    Args:
        in_channels: number of channels that the stem returns.
        rows: the rows of the table.
        block: creates a block from its row, input channels, stride and drop rate.
        drop_path: upper bound of the drop rates, in [0, 1).
    """
    rows = list(rows)
    total = sum(row.layers for row in rows)
    ramp = iter([drop_path * i / total for i in range(total)])
    stages = []
    for row in rows:
        stage = Stage()
        for i in range(row.layers):
            stage.append(block(row, in_channels, 1 if i else row.stride, next(ramp)))
            in_channels = row.channels
        stages.append(stage)
    return stages
