"""MLP-Mixer in timm, whose MLPs use linear layers instead of 1x1 convolutions."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair


def timm(model: Any) -> Iterator[Pair]:
    """`stem.proj`, `blocks.0.norm1`, `blocks.0.mlp_tokens.fc1`, `blocks.0.mlp_channels.fc1`."""
    yield Pair("stem", "stem.proj")
    for i, stage in enumerate(model.stages):
        ours, theirs = f"stages.{i}.0", f"blocks.{i}"
        for part, number in (("token", 1), ("channel", 2)):
            yield Pair(f"{ours}.{part}_norm", f"{theirs}.norm{number}")
            for k in (1, 2):
                width = stage.get_submodule(f"0.{part}_mlp.conv{k}").in_channels
                linear = f"{theirs}.mlp_{part}s.fc{k}"
                yield Pair(f"{ours}.{part}_mlp.conv{k}", linear, (-1, width))
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "norm")
    yield Pair("head.classifier", "head")


LAYOUTS = (Layout("timm", timm),)
