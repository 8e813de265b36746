"""Darknet-53 in timm and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_bn


def timm(model: Any) -> Iterator[Pair]:
    """`stem.conv1`, `stages.0.conv_down.conv`, `stages.0.blocks.0.conv1.bn`, `head.fc`."""
    yield from conv_bn("stem", "stem.conv1")
    for i in range(len(model.stages)):
        yield from conv_bn(f"stages.{i}.downsample", f"stages.{i}.conv_down")
    for ours, _, i, j in blocks(model):
        yield from conv_bn(f"{ours}.branch.reduce", f"stages.{i}.blocks.{j}.conv1")
        yield from conv_bn(f"{ours}.branch.conv", f"stages.{i}.blocks.{j}.conv2")
    yield Pair("head.classifier", "head.fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.conv`, `features.stage1.unit2.conv1`."""
    yield from conv_bn("stem", "features.init_block")
    for i in range(len(model.stages)):
        yield from conv_bn(f"stages.{i}.downsample", f"features.stage{i + 1}.unit1")
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 2}"
        yield from conv_bn(f"{ours}.branch.reduce", f"{theirs}.conv1")
        yield from conv_bn(f"{ours}.branch.conv", f"{theirs}.conv2")
    yield Pair("head.classifier", "output")


LAYOUTS = (
    Layout("timm", timm, always(negative_slope=0.01)),
    Layout("pytorchcv", pytorchcv, always(negative_slope=0.1)),
)
