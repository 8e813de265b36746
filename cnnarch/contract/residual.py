"""The base class of residual networks: a stem, stages of blocks and a pooled linear head."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import MakeNorm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import constant_
from cnnarch.blocks.stochastic_depth import StochasticDepth, drop_path_rates
from cnnarch.contract.classifier import ImageClassifier

MakeBlock = Callable[[int, int, int], Any]
"""Builds a module with an `out_channels` attribute from input channels, width and stride."""
LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)


class Template(NamedTuple):
    """Grouping of ResNeXt's 3x3 convolutions, such as "32x4d" (arXiv 1611.05431, Table 2).

    Args:
        cardinality: number of groups.
        group_width: channels per group in the first stage. Each later stage doubles this number.
    """

    cardinality: int
    group_width: int


def group_width_at(channels: int, first: int, group_width: int | None) -> int | None:
    """Return a stage's number of channels per group, which is proportional to its width.

    Args:
        channels: width of ResNet's bottleneck in the stage.
        first: width of ResNet's bottleneck in the first stage.
        group_width: channels per group in the first stage. None uses the block's default.

    Raises:
        ValueError: the result is not an integer.
    """
    if group_width is None:
        return None
    check_integer("group_width", group_width, 1)
    width, remainder = divmod(group_width * channels, first)
    if remainder:
        exact = group_width * channels / first
        raise ValueError(
            f"group_width {group_width} at width {first}, scaled to width {channels}, "
            f"must be an integer, got {exact:g}"
        )
    return width


def drop_branches(blocks: Sequence[nn.Module], drop_path: float) -> None:
    """End each branch with stochastic depth; the rate of block i of n is drop_path * i / (n - 1).

    Raises:
        ValueError: `drop_path` is out of range, or a block has no residual branch.
    """
    (rates,) = drop_path_rates(drop_path, (len(blocks),))
    for block, rate in zip(blocks, rates, strict=True):
        if rate:
            _branch_of(block, "drop_path").drop_path = StochasticDepth(rate)


def zero_branches(blocks: Sequence[nn.Module]) -> None:
    """Zero the weight of each branch's last norm or convolution, so that the branch returns zero.

    That layer is the last norm, or the last convolution of a pre-activation branch, which ends
    without a norm. Layers of the attention that follows it do not count.

    Raises:
        ValueError: a block has no residual branch.
    """
    for block in blocks:
        branch = _branch_of(block, "zero_init_residual")
        layers = [
            module
            for name, module in branch.named_modules()
            if isinstance(module, LAYERS) and not name.startswith("attention")
        ]
        constant_(layers[-1].weight, 0.0)


def _branch_of(block: nn.Module, option: str) -> nn.Sequential:
    branch = getattr(block, "branch", None)
    if not isinstance(branch, nn.Sequential):
        raise ValueError(
            f"{option} requires blocks with a residual branch, got {type(block).__name__}"
        )
    return branch


class ResidualNetwork(ImageClassifier):
    """A stem, stages of residual blocks and a pooled linear head.

    Args:
        stem: the layers before the first pool, including the first convolution.
        block: builds a block from its input channels, width and stride.
        widths: block width in each stage: one for all of its blocks, or one for each.
        depths: number of blocks in each stage.
        names: the paper's names for the stem and each stage.
        pool: first layer of the first stage, such as the max-pool in Table 1 of the ResNet paper.
        min_input_size: smallest image side, in pixels, that every layer accepts.
        final_norm: creates the norm that ends the last stage, before a ReLU, in networks whose
            blocks end with a sum; None omits both.
        first_stride: stride of the first stage's first block. It is 2 in all later stages.
        num_classes: number of logits. With 0 the network returns the pooled features.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes)

    Raises:
        ValueError: `widths` or `depths` does not have one entry per stage, a stage is empty,
            or `drop_path` or `zero_init_residual` is set for blocks without a residual branch.
    """

    def __init__(
        self,
        stem: nn.Module,
        block: MakeBlock,
        widths: Sequence[int | Sequence[int]],
        depths: Sequence[int],
        names: Sequence[str],
        pool: nn.Module | None = None,
        min_input_size: int = 1,
        final_norm: MakeNorm | None = None,
        first_stride: int = 1,
        *,  # options of every residual network
        num_classes: int,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        check_length("widths", widths, len(names) - 1)
        check_length("depths", depths, len(names) - 1)
        *_, last = (m for m in stem.modules() if isinstance(m, nn.Conv2d))
        channels = last.out_channels
        stages: list[Stage] = []
        blocks: list[nn.Module] = []
        for width, depth in zip(widths, depths, strict=True):
            check_integer("depth of a stage", depth, 1)
            stage = Stage() if stages or pool is None else Stage(pool=pool)
            stride = 2 if stages else first_stride
            block_widths = width if isinstance(width, Sequence) else [width] * depth
            check_length("widths of a stage", block_widths, depth)
            for i, block_width in enumerate(block_widths):
                unit = block(channels, block_width, stride if i == 0 else 1)
                stage.append(unit)
                channels = unit.out_channels
                blocks.append(unit)
            stages.append(stage)
        drop_branches(blocks, drop_path)
        if zero_init_residual:
            zero_branches(blocks)
        if final_norm is not None:
            stages[-1].add_module("norm", final_norm(channels))
            stages[-1].add_module("act", nn.ReLU())
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=names, min_input_size=min_input_size)
