"""InceptionNeXt in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm

PARTS = {
    "depthwise.square": "token_mixer.dwconv_hw",
    "depthwise.horizontal": "token_mixer.dwconv_w",
    "depthwise.vertical": "token_mixer.dwconv_h",
    "norm": "norm",
    "expand": "mlp.fc1",
    "project": "mlp.fc2",
    "scale.gamma": "gamma",
}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.0`, `stages.0.blocks.0.token_mixer.dwconv_w`, `stages.1.downsample.1`, `head.fc2`."""
    yield from conv_norm("stem", "stem.0", "stem.1")
    for ours, _, i, j in blocks(model):
        for part, name in PARTS.items():
            yield Pair(f"{ours}.branch.{part}", f"stages.{i}.blocks.{j}.{name}")
    for i in range(1, len(model.stages)):
        layers = f"stages.{i}.downsample"
        yield from conv_norm(layers, f"{layers}.1", f"{layers}.0")
    yield Pair("head.hidden.fc", "head.fc1")
    yield Pair("head.hidden.norm", "head.norm")
    yield Pair("head.classifier", "head.fc2")


LAYOUTS = (Layout("timm", timm),)
