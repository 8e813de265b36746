"""GhostNet in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm
from cnnarch.weights.porting.efficientnet import squeeze


def timm(model: Any) -> Iterator[Pair]:
    """`blocks.1.0.ghost1.primary_conv.0`; the strided block of a stage is a stage of its own."""
    yield from conv_norm("stem", "conv_stem", "bn1")
    for ours, _, i, j in blocks(model):
        theirs = f"blocks.{2 * i}.{j - 1}" if j else f"blocks.{max(0, 2 * i - 1)}.0"
        for part, ghost in (("expand", "ghost1"), ("project", "ghost2")):
            for half, name in (("primary", "primary_conv"), ("cheap", "cheap_operation")):
                layers = f"{theirs}.{ghost}.{name}"
                yield from conv_norm(f"{ours}.branch.{part}.{half}", f"{layers}.0", f"{layers}.1")
        yield from conv_norm(f"{ours}.branch.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn_dw")
        yield from squeeze(ours, f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand")
        shortcut, layers = f"{ours}.shortcut", f"{theirs}.shortcut"
        yield from conv_norm(f"{shortcut}.depthwise", f"{layers}.0", f"{layers}.1")
        yield from conv_norm(f"{shortcut}.pointwise", f"{layers}.2", f"{layers}.3")
    last = f"blocks.{2 * len(model.stages) - 1}.0"
    yield from conv_norm("head.before", f"{last}.conv", f"{last}.bn1")
    yield Pair("head.hidden.fc", "conv_head", (-1, model.head.hidden.fc.in_features, 1, 1))
    yield Pair("head.classifier", "classifier")


LAYOUTS = (Layout("timm", timm),)
