"""CSPNets in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.weights.porting._layout import Layout, Pair, always, conv_bn

PARTS = {"expand": "conv_exp", "project": "conv_transition_b", "merge": "conv_transition"}


def timm(model: Any) -> Iterator[Pair]:
    """`stem.conv1`, `stages.0.conv_down`, `stages.0.conv_exp`, `stages.0.blocks.0.conv1`."""
    yield from conv_bn("stem", "stem.conv1")
    for i, stage in enumerate(model.stages):
        yield from conv_bn(f"stages.{i}.downsample", f"stages.{i}.conv_down")
        for part, theirs in PARTS.items():
            yield from conv_bn(f"stages.{i}.0.{part}", f"stages.{i}.{theirs}")
        for name, block in stage[-1].blocks.named_children():
            convs = [
                part for part, m in block.branch.named_children() if isinstance(m, ConvNormAct)
            ]
            for k, part in enumerate(convs, start=1):
                ours = f"stages.{i}.0.blocks.{name}.branch.{part}"
                yield from conv_bn(ours, f"stages.{i}.blocks.{name}.conv{k}")
    yield Pair("head.classifier", "head.fc")


LAYOUTS = (Layout("timm", timm, always(negative_slope=0.01)),)
