"""GoogLeNet with BatchNorm in torchvision. No library provides the original 2014 network."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

BRANCHES = {
    "branch1x1": "branch1",
    "branch3x3.reduce": "branch2.0",
    "branch3x3.conv": "branch2.1",
    "branch5x5.reduce": "branch3.0",
    "branch5x5.conv": "branch3.1",
    "branch_pool.conv": "branch4.1",
}


def torchvision(model: Any) -> Iterator[Pair]:
    """`conv1`, `inception3a.branch2.0`, `aux1.conv`, each with `.conv` and `.bn`."""
    if not any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        return
    for ours, theirs in (("stem", "conv1"), ("stages.0.0", "conv2"), ("stages.0.1", "conv3")):
        yield from conv_bn(ours, theirs)
    for ours, _, i, j in blocks(model):
        for branch, theirs in BRANCHES.items():
            yield from conv_bn(f"{ours}.{branch}", f"inception{i + 2}{'abcde'[j]}.{theirs}")
    for head in ("aux1", "aux2"):
        yield from conv_bn(f"{head}.pool.reduce", f"{head}.conv")
        yield Pair(f"{head}.hidden.0", f"{head}.fc1")
        yield Pair(f"{head}.classifier", f"{head}.fc2")
    yield Pair("head.classifier", "fc")


LAYOUTS = (Layout("torchvision", torchvision, ignored=("aux1", "aux2")),)
