"""gMLP in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair

PARTS = {
    "norm": "norm",
    "mlp.expand": "mlp_channels.fc1",
    "mlp.gate.norm": "mlp_channels.gate.norm",
    "mlp.gate.linear": "mlp_channels.gate.proj",
    "mlp.project": "mlp_channels.fc2",
}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.proj`, `blocks.0.mlp_channels.fc1`, `blocks.0.mlp_channels.gate.proj`."""
    yield Pair("stem", "stem.proj")
    for i in range(len(model.stages)):
        for part, name in PARTS.items():
            yield Pair(f"stages.{i}.0.{part}", f"blocks.{i}.{name}")
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "norm")
    yield Pair("head.classifier", "head")


LAYOUTS = (Layout("timm", timm),)
