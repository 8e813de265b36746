"""MobileOne in timm and in its authors' repository, with branches and without.

https://github.com/apple/ml-mobileone has two files for each network. Those without the suffix
"unfused" have no branches.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

THEIR_STAGES = (0, 1, 2, 2, 3)
"""The index of their stage for each of ours: the paper's stages 4 and 5 are one stage."""


def timm(model: Any) -> Iterator[Pair]:
    """`stages.0.1.conv_kxk.0.conv`, `stages.0.1.conv_scale.bn`; merged: `stem.reparam_conv`."""
    for ours, layer, i, j in layers(model):
        theirs = "stem" if i < 0 else f"stages.{i}.{j}"
        for k, branch in enumerate(branches(layer)):
            yield from conv_bn(f"{ours}.conv.{branch}", f"{theirs}.conv_kxk.{k}")
        yield from conv_bn(f"{ours}.conv.pointwise", f"{theirs}.conv_scale")
        yield Pair(f"{ours}.conv.identity", f"{theirs}.identity")
        yield Pair(f"{ours}.conv", f"{theirs}.reparam_conv")
        yield Pair(f"{ours}.attention.reduce", f"{theirs}.attn.fc1")
        yield Pair(f"{ours}.attention.expand", f"{theirs}.attn.fc2")
    yield Pair("head.classifier", "head.fc")


def authors(model: Any) -> Iterator[Pair]:
    """`stage1.1.rbr_conv.0.conv`, `stage1.1.rbr_scale.bn`; merged: `stage0.reparam_conv`."""
    for ours, layer, i, j in layers(model):
        theirs = "stage0" if i < 0 else f"stage{i + 1}.{j}"
        for k, branch in enumerate(branches(layer)):
            yield from conv_bn(f"{ours}.conv.{branch}", f"{theirs}.rbr_conv.{k}")
        yield from conv_bn(f"{ours}.conv.pointwise", f"{theirs}.rbr_scale")
        yield Pair(f"{ours}.conv.identity", f"{theirs}.rbr_skip")
        yield Pair(f"{ours}.conv", f"{theirs}.reparam_conv")
        yield Pair(f"{ours}.attention", f"{theirs}.se")
    yield Pair("head.classifier", "linear")


def layers(model: Any) -> Iterator[tuple[str, Any, int, int]]:
    """Yield each layer's name and module, and their indices of its stage (-1: stem) and in it."""
    yield "stem", model.stem, -1, 0
    numbers = [count() for _ in THEIR_STAGES]
    for ours, block, i, _ in blocks(model):
        stage = THEIR_STAGES[i]
        for name, layer in block.named_children():
            yield f"{ours}.{name}", layer, stage, next(numbers[stage])


def branches(layer: Any) -> list[str]:
    """Return the names of the branches with full kernels."""
    return [name for name, _ in layer.conv.named_children() if name.startswith("conv")]


LAYOUTS = (Layout("timm", timm), Layout("mobileone", authors))
