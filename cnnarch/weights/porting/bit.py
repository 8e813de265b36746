"""BiT in timm. Its classifier is a 1x1 convolution."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks

PARTS = {
    "norm": "norm1",
    "branch.reduce": "conv1",
    "branch.norm1": "norm2",
    "branch.conv": "conv2",
    "branch.norm2": "norm3",
    "branch.expand": "conv3",
    "shortcut.conv": "downsample.conv",
}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.conv`, `stages.0.blocks.0.norm1`, `stages.0.blocks.0.downsample.conv`, `head.fc`."""
    yield Pair("stem.conv", "stem.conv")
    for ours, _, i, j in blocks(model):
        for part, theirs in PARTS.items():
            yield Pair(f"{ours}.{part}", f"stages.{i}.blocks.{j}.{theirs}")
    last = model.stages[-1]
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "norm")
    yield Pair("head.classifier", "head.fc", (-1, last.norm.num_channels, 1, 1))


LAYOUTS = (Layout("timm", timm),)
