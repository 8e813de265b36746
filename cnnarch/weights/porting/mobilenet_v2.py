"""MobileNet V2 in torchvision and timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_norm
from cnnarch.weights.porting.efficientnet import timm


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.2.conv.0.0`; numbers continue across stages, and projections are not nested."""
    yield from conv_norm("stem", "features.0.0", "features.0.1")
    number = 0
    for number, (ours, block, *_) in enumerate(blocks(model), 1):
        theirs = f"features.{number}.conv"
        expands = int(hasattr(block.branch, "expand"))
        if expands:
            yield from conv_norm(f"{ours}.branch.expand", f"{theirs}.0.0", f"{theirs}.0.1")
        depthwise = f"{theirs}.{expands}"
        yield from conv_norm(f"{ours}.branch.depthwise", f"{depthwise}.0", f"{depthwise}.1")
        last = expands + 1
        yield from conv_norm(f"{ours}.branch.project", f"{theirs}.{last}", f"{theirs}.{last + 1}")
    theirs = f"features.{number + 1}"
    yield from conv_norm("head.before", f"{theirs}.0", f"{theirs}.1")
    yield Pair("head.classifier", "classifier.1")


_OPTIONS = always(norm_eps=1e-5, padding="symmetric")
LAYOUTS = (
    Layout("torchvision", torchvision, _OPTIONS),
    Layout("timm", timm, _OPTIONS),
)
