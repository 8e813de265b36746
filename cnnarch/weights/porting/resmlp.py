"""ResMLP in timm, whose affine layers store their factors with shape (1, 1, C)."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair

PARTS = {
    "token_linear": "linear_tokens",
    "token_scale.gamma": "ls1",
    "channel_mlp.expand": "mlp_channels.fc1",
    "channel_mlp.project": "mlp_channels.fc2",
    "channel_scale.gamma": "ls2",
}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.proj`, `blocks.0.norm1.alpha`, `blocks.0.linear_tokens`, `blocks.0.ls1`."""
    yield Pair("stem", "stem.proj")
    for i in range(len(model.stages)):
        ours, theirs = f"stages.{i}.0", f"blocks.{i}"
        yield from _affine(f"{ours}.token_norm", f"{theirs}.norm1")
        yield from _affine(f"{ours}.channel_norm", f"{theirs}.norm2")
        for part, name in PARTS.items():
            yield Pair(f"{ours}.{part}", f"{theirs}.{name}")
    yield from _affine(f"stages.{len(model.stages) - 1}.norm", "norm")
    yield Pair("head.classifier", "head")


def _affine(ours: str, theirs: str) -> Iterator[Pair]:
    for name in ("alpha", "beta"):
        yield Pair(f"{ours}.{name}", f"{theirs}.{name}", (1, 1, -1))


LAYOUTS = (Layout("timm", timm),)
