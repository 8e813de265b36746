"""ConvMixer in timm, whose layers have numbers: convolution, activation, norm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`stem.0`, `blocks.0.0.fn.0` (depthwise), `blocks.0.1` (1x1), `head`."""
    yield from conv_norm("stem", "stem.0", "stem.2")
    for ours, _, i, _ in blocks(model):
        theirs = f"blocks.{i}"
        yield from conv_norm(f"{ours}.depthwise", f"{theirs}.0.fn.0", f"{theirs}.0.fn.2")
        yield from conv_norm(f"{ours}.pointwise", f"{theirs}.1", f"{theirs}.3")
    yield Pair("head.classifier", "head")


LAYOUTS = (Layout("timm", timm),)
