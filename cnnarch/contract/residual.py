"""What residual networks share: stages of blocks, each but the first opened by a stride of 2."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage

__all__ = ["residual_stages"]


def residual_stages(
    block: Callable[[int, int, int], Any],
    widths: Sequence[int],
    depths: Sequence[int],
    in_channels: int,
    pool: nn.Module | None = None,
) -> tuple[list[Stage], int]:
    """Make the stages, and say how many channels the last one gives.

    Args:
        block: makes a module with `out_channels` from input channels, width and stride.
        widths: width of the blocks in each stage.
        depths: number of blocks in each stage.
        in_channels: channels of the stem's map.
        pool: opens the first stage, as the max-pool does in Table 1 of the ResNet paper.

    Raises:
        ValueError: `depths` does not name as many stages as `widths`, or an empty one.
    """
    if len(depths) != len(widths):
        raise ValueError(f"depths must name {len(widths)} stages, got {len(depths)}")
    stages: list[Stage] = []
    for width, depth in zip(widths, depths, strict=True):
        check_integer("depth of a stage", depth, 1)
        stage = Stage() if stages or pool is None else Stage(pool=pool)
        for i in range(depth):
            unit = block(in_channels, width, 2 if stages and i == 0 else 1)
            stage.append(unit)
            in_channels = unit.out_channels
        stages.append(stage)
    return stages, in_channels
