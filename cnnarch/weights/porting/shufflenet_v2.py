"""ShuffleNet V2 in torchvision."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm

PARTS = {
    "shortcut.depthwise": ("branch1.0", "branch1.1"),
    "shortcut.pointwise": ("branch1.2", "branch1.3"),
    "branch.reduce": ("branch2.0", "branch2.1"),
    "branch.depthwise": ("branch2.3", "branch2.4"),
    "branch.expand": ("branch2.5", "branch2.6"),
}


def torchvision(model: Any) -> Iterator[Pair]:
    """`conv1.0`, `stage2.0.branch1.0`, `stage2.0.branch2.3`, `conv5.0`."""
    yield from conv_norm("stem", "conv1.0", "conv1.1")
    for ours, _, i, j in blocks(model):
        theirs = f"stage{i + 2}.{j}"
        for part, (conv, norm) in PARTS.items():
            yield from conv_norm(f"{ours}.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
    yield from conv_norm("head.before", "conv5.0", "conv5.1")
    yield Pair("head.classifier", "fc")


LAYOUTS = (Layout("torchvision", torchvision),)
