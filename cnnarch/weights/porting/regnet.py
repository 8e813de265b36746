"""RegNet in torchvision, timm and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm

CONVOLUTIONS = ("reduce", "conv", "expand")


def torchvision(model: Any) -> Iterator[Pair]:
    """`stem.0`, `trunk_output.block1.block1-0.f.a.0`, `....f.se.fc1`, `....proj.0`."""
    yield from conv_norm("stem", "stem.0", "stem.1")
    for ours, _, i, j in blocks(model):
        theirs = f"trunk_output.block{i + 1}.block{i + 1}-{j}"
        for name, letter in zip(CONVOLUTIONS, "abc", strict=True):
            layer = f"{theirs}.f.{letter}"
            yield from conv_norm(f"{ours}.branch.{name}", f"{layer}.0", f"{layer}.1")
        yield from _squeeze(ours, f"{theirs}.f.se.fc")
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.proj.0", f"{theirs}.proj.1")
    yield Pair("head.classifier", "fc")


def timm(model: Any) -> Iterator[Pair]:
    """`stem.conv`, `s1.b1.conv1.conv`, `s1.b1.se.fc1`, `s1.b1.downsample.conv`."""
    yield from conv_bn("stem", "stem")
    for ours, _, i, j in blocks(model):
        theirs = f"s{i + 1}.b{j + 1}"
        for k, name in enumerate(CONVOLUTIONS, start=1):
            yield from conv_bn(f"{ours}.branch.{name}", f"{theirs}.conv{k}")
        yield from _squeeze(ours, f"{theirs}.se.fc")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.downsample")
    yield Pair("head.classifier", "head.fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.body.conv1.conv`, `....body.se.conv1`."""
    yield from conv_bn("stem", "features.init_block")
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for k, name in enumerate(CONVOLUTIONS, start=1):
            yield from conv_bn(f"{ours}.branch.{name}", f"{theirs}.body.conv{k}")
        yield from _squeeze(ours, f"{theirs}.body.se.conv")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.identity_conv")
    yield Pair("head.classifier", "output")


def _squeeze(ours: str, theirs: str) -> Iterator[Pair]:
    yield Pair(f"{ours}.branch.attention.reduce", f"{theirs}1")
    yield Pair(f"{ours}.branch.attention.expand", f"{theirs}2")


LAYOUTS = (
    Layout("torchvision", torchvision),
    Layout("timm", timm),
    Layout("pytorchcv", pytorchcv),
)
