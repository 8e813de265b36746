"""Res2Net in timm, whose names are those of ResNet except for the 3x3 convolutions."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`conv1`, `layer1.0.conv1`, `layer1.0.convs.0`, `layer1.0.bns.0`, `layer1.0.conv3`."""
    yield from conv_norm("stem", "conv1", "bn1")
    for ours, block, i, j in blocks(model):
        theirs = f"layer{i + 1}.{j}"
        yield from conv_norm(f"{ours}.branch.reduce", f"{theirs}.conv1", f"{theirs}.bn1")
        for k in range(len(block.branch.conv.convs)):
            conv = f"{ours}.branch.conv.convs.{k}"
            yield from conv_norm(conv, f"{theirs}.convs.{k}", f"{theirs}.bns.{k}")
        yield from conv_norm(f"{ours}.branch.expand", f"{theirs}.conv3", f"{theirs}.bn3")
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield Pair("head.classifier", "fc")


LAYOUTS = (Layout("timm", timm),)
