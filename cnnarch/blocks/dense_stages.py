"""DenseNet stages: one dense block each, preceded by a transition in all but the first stage."""

from torch import nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.dense import Dense, Transition


def dense_stages(
    channels: int,
    depths: tuple[int, ...],
    growth_rate: int,
    *,
    bottleneck: int | None,
    compression: float,
    dropout: float,
    pool: nn.Module | None = None,
) -> tuple[list[Stage], int]:
    """Return the stages and the last stage's number of output channels.

    The last stage ends with the BN and ReLU that precede the classifier.

    Args:
        channels: number of output channels of the stem.
        depths: number of layers in each dense block.
        growth_rate: number of channels that each layer adds.
        bottleneck: width of a layer's 1x1 convolution as a multiple of the growth rate; None omits
            the convolution.
        compression: fraction of its input channels that a transition keeps, in (0, 1].
        dropout: probability of zeroing a value after each convolution.
        pool: first module of the first stage, such as the max-pool in the paper's Table 1.

    Raises:
        ValueError: `depths` is empty, or a number is out of range.
    """
    if not depths:
        raise ValueError("depths must list at least one dense block, got none")
    check_positive("compression", compression)
    if compression > 1:
        raise ValueError(f"compression must be in (0, 1], got {compression!r}")
    stages: list[Stage] = []
    for depth in depths:
        stage = Stage() if stages or pool is None else Stage(pool=pool)
        if stages:
            kept = int(channels * compression)
            stage = Stage(transition=Transition(channels, kept, dropout=dropout))
            channels = kept
        dense = Dense(channels, depth, growth_rate, bottleneck=bottleneck, dropout=dropout)
        stages.append(stage.append(dense))
        channels = dense.out_channels
    stages[-1].add_module("norm", nn.BatchNorm2d(channels))
    stages[-1].add_module("act", nn.ReLU())
    return stages, channels
