"""StarNet in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

CONV_BN = {"depthwise": "dwconv", "project": "g"}
CONV = {"star.activated": "f1", "star.linear": "f2", "last": "dwconv2"}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.0.conv`, `stages.0.0.bn`, `stages.0.1.f1.conv`; the downsampling is number 0."""
    yield from conv_bn("stem", "stem.0")
    for i in range(len(model.stages)):
        yield from conv_bn(f"stages.{i}.downsample", f"stages.{i}.0")
    for ours, _, i, j in blocks(model):
        theirs = f"stages.{i}.{j + 1}"
        for part, name in CONV_BN.items():
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.{name}")
        for part, name in CONV.items():
            yield Pair(f"{ours}.branch.{part}", f"{theirs}.{name}.conv")
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "norm")
    yield Pair("head.classifier", "head")


LAYOUTS = (Layout("timm", timm),)
