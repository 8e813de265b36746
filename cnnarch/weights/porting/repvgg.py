"""RepVGG in timm and in its authors' repository, with branches and without.

https://github.com/DingXiaoH/RepVGG converts trained networks to files whose names end in "deploy".
"""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn


def timm(model: Any) -> Iterator[Pair]:
    """`stages.0.1.conv_kxk.conv`, `stages.0.1.identity`; merged: `stem.reparam_conv`."""
    for ours, i, j in layers(model):
        theirs = "stem" if i < 0 else f"stages.{i}.{j}"
        yield from conv_bn(f"{ours}.conv.conv1", f"{theirs}.conv_kxk")
        yield from conv_bn(f"{ours}.conv.pointwise", f"{theirs}.conv_1x1")
        yield Pair(f"{ours}.conv.identity", f"{theirs}.identity")
        yield Pair(f"{ours}.conv", f"{theirs}.reparam_conv")
    yield Pair("head.classifier", "head.fc")


def authors(model: Any) -> Iterator[Pair]:
    """`stage1.1.rbr_dense.conv`, `stage1.1.rbr_identity`; merged: `stage0.rbr_reparam`."""
    for ours, i, j in layers(model):
        theirs = "stage0" if i < 0 else f"stage{i + 1}.{j}"
        yield from conv_bn(f"{ours}.conv.conv1", f"{theirs}.rbr_dense")
        yield from conv_bn(f"{ours}.conv.pointwise", f"{theirs}.rbr_1x1")
        yield Pair(f"{ours}.conv.identity", f"{theirs}.rbr_identity")
        yield Pair(f"{ours}.conv", f"{theirs}.rbr_reparam")
    yield Pair("head.classifier", "linear")


def layers(model: Any) -> Iterator[tuple[str, int, int]]:
    """Yield each layer's name, the index of its stage (-1: stem), and its index in the stage."""
    yield "stem", -1, 0
    for ours, _, i, j in blocks(model):
        yield ours, i, j


LAYOUTS = (Layout("timm", timm), Layout("repvgg", authors))
