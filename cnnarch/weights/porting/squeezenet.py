"""SqueezeNet in torchvision and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks

PARTS = {"squeeze": "squeeze", "expand.conv1x1": "expand1x1", "expand.conv3x3": "expand3x3"}


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.0`, `features.3.squeeze`, where ReLU and the pools are numbered too."""
    yield Pair("stem.conv", "features.0")
    for number, (ours, _, i, _) in enumerate(blocks(model)):
        for part, theirs in PARTS.items():
            # conv1, ReLU and the pool of this and each earlier stage come first.
            yield Pair(f"{ours}.{part}.conv", f"features.{number + i + 3}.{theirs}")
    yield Pair("head.classifier", "classifier.1")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.squeeze.conv`."""
    yield Pair("stem.conv", "features.init_block.conv")
    for ours, _, i, j in blocks(model):
        for part, theirs in PARTS.items():
            unit = f"features.stage{i + 1}.unit{j + 1}"
            yield Pair(f"{ours}.{part}.conv", f"{unit}.{theirs}.conv")
    yield Pair("head.classifier", "output.final_conv")


LAYOUTS = (Layout("torchvision", torchvision), Layout("pytorchcv", pytorchcv))
