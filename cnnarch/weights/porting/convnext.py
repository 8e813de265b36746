"""ConvNeXt in torchvision and timm.

The factors of the layer scale have shape (C, 1, 1) in torchvision and (C,) in timm. timm's networks
smaller than ConvNeXt-T compute the MLPs with 1x1 convolutions.
"""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks

CONV_MLP = 80  # channels of the stem in timm's largest network whose MLPs are convolutions


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.0.0`, `features.1.0.block.0`, `features.2.1`, `classifier.2`."""
    yield Pair("stem.conv", "features.0.0")
    yield Pair("stem.norm", "features.0.1")
    parts = {"depthwise": 0, "norm": 2, "mlp.expand": 3, "mlp.project": 5}
    for ours, _, i, j in blocks(model):
        theirs = f"features.{2 * i + 1}.{j}"
        for part, number in parts.items():
            yield Pair(f"{ours}.{part}", f"{theirs}.block.{number}")
        yield Pair(f"{ours}.scale.gamma", f"{theirs}.layer_scale", (-1, 1, 1))
    for i in range(1, len(model.stages)):
        yield Pair(f"stages.{i}.downsample.norm", f"features.{2 * i}.0")
        yield Pair(f"stages.{i}.downsample.conv", f"features.{2 * i}.1")
    yield Pair("head.hidden", "classifier.0")
    yield Pair("head.classifier", "classifier.2")


def timm(model: Any) -> Iterator[Pair]:
    """`stem.0`, `stages.0.blocks.0.conv_dw`, `stages.1.downsample.1`, `head.fc`."""
    yield Pair("stem.conv", "stem.0")
    yield Pair("stem.norm", "stem.1")
    convolves = model.stages[0][0].depthwise.in_channels <= CONV_MLP
    for ours, block, i, j in blocks(model):
        theirs = f"stages.{i}.blocks.{j}"
        yield Pair(f"{ours}.depthwise", f"{theirs}.conv_dw")
        yield Pair(f"{ours}.norm", f"{theirs}.norm")
        for layer, name in (("expand", "fc1"), ("project", "fc2")):
            inputs = getattr(block.mlp, layer).in_features
            shape = (-1, inputs, 1, 1) if convolves else None
            yield Pair(f"{ours}.mlp.{layer}", f"{theirs}.mlp.{name}", shape)
        yield Pair(f"{ours}.scale.gamma", f"{theirs}.gamma")
    for i in range(1, len(model.stages)):
        yield Pair(f"stages.{i}.downsample.norm", f"stages.{i}.downsample.0")
        yield Pair(f"stages.{i}.downsample.conv", f"stages.{i}.downsample.1")
    yield Pair("head.hidden", "head.norm")
    yield Pair("head.classifier", "head.fc")


LAYOUTS = (Layout("torchvision", torchvision), Layout("timm", timm))
