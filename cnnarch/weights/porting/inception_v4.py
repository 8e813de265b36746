"""Inception v4 in timm and pretrainedmodels, which use the same names, and in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._inception import pytorchcv_block, pytorchcv_stem, timm_block
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn


def timm(model: Any) -> Iterator[Pair]:
    """`features.0`, `features.3.conv`, `features.6.branch1.0`, `features.19.branch1_1a`."""
    for k in (1, 2, 3):
        yield from conv_bn(f"stem.conv{k}", f"features.{k - 1}")
    for number, (ours, block, i, j) in enumerate(blocks(model), start=3):
        if (i, j) == (0, 0):
            yield from conv_bn(f"{ours}.branch2.conv1", f"features.{number}.conv")
        elif (i, j) == (1, 0):
            yield from conv_bn(f"{ours}.branch1.conv1", f"features.{number}.conv")
        else:
            yield from timm_block(ours, block, f"features.{number}")
    yield Pair("head.classifier", "last_linear")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.block1`, `features.stage1.unit1.branches.branch1.conv`."""
    yield from pytorchcv_stem()
    for ours, block, i, j in blocks(model):
        if i == 0 or (i, j) == (1, 0):
            yield from _stem_block(ours, block, f"features.init_block.block{i * 2 + j + 1}")
        else:
            unit = f"features.stage{i}.unit{j + (i > 1)}"
            yield from pytorchcv_block(ours, block, unit)
    yield Pair("head.classifier", "output.fc")


def _stem_block(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    if len(block.branch1) == 2:  # mixed_4a, the only block of the stem without a pool
        yield from pytorchcv_block(ours, block, theirs)
        return
    branch = 2 if hasattr(block.branch1, "pool") else 1
    yield from conv_bn(f"{ours}.branch{branch}.conv1", f"{theirs}.branches.branch{branch}.conv")


LAYOUTS = (Layout("timm", timm), Layout("cadene", timm), Layout("pytorchcv", pytorchcv))
