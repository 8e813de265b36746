"""Inception-ResNet v2 in timm and pretrainedmodels, and v1 and v2 in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._inception import pytorchcv_block, pytorchcv_stem, timm_block
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

TIMM_CONVS = {
    "stem.conv1": "conv2d_1a",
    "stem.conv2": "conv2d_2a",
    "stem.conv3": "conv2d_2b",
    "stages.0.0": "conv2d_3b",
    "stages.0.1": "conv2d_4a",
    "head.before": "conv2d_7b",
}
TIMM_STAGES = (("mixed_5b", "repeat"), ("mixed_6a", "repeat_1"), ("mixed_7a", "repeat_2"))


def timm(model: Any) -> Iterator[Pair]:
    """`conv2d_1a`, `mixed_5b.branch1.0`, `repeat.0.conv2d`, `block8.branch1.0`, `classif`."""
    for ours, theirs in TIMM_CONVS.items():
        yield from conv_bn(ours, theirs)
    last = sum(name.isdigit() for name, _ in model.stages[3].named_children()) - 1
    for ours, block, i, j in blocks(model):
        if i and hasattr(block, "project"):
            theirs = "block8" if (i, j) == (3, last) else f"{TIMM_STAGES[i - 1][1]}.{j - 1}"
            yield from timm_block(f"{ours}.branches", block.branches, theirs)
            yield Pair(f"{ours}.project", f"{theirs}.conv2d")
        elif i and hasattr(block, "branch1"):
            yield from timm_block(ours, block, TIMM_STAGES[i - 1][0])
    yield Pair("head.classifier", "classif")


def cadene(model: Any) -> Iterator[Pair]:
    """The names of timm, except for `last_linear`."""
    for pair in timm(model):
        yield pair._replace(theirs="last_linear") if pair.theirs == "classif" else pair


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1`, `features.stage1.unit1.branches.branch1.conv`."""
    yield from pytorchcv_stem()
    yield from conv_bn("stages.0.0", "features.init_block.conv4")
    yield from conv_bn("stages.0.1", "features.init_block.conv5")
    for ours, block, i, j in blocks(model):
        unit = f"features.stage{i}.unit{j + (i > 1)}"
        if not i:
            continue
        if hasattr(block, "project"):
            yield from pytorchcv_block(f"{ours}.branches", block.branches, unit)
            yield Pair(f"{ours}.project", f"{unit}.conv")
        elif i > 1:  # a reduction
            yield from pytorchcv_block(ours, block, unit)
        elif hasattr(block, "branch1"):
            yield from pytorchcv_block(ours, block, "features.init_block.block")
        else:
            yield from conv_bn(ours, "features.init_block.conv6")
    yield from conv_bn("head.before", "features.final_conv")
    yield Pair("head.hidden.linear", "output.fc1")
    yield Pair("head.hidden.norm", "output.bn")
    yield Pair("head.classifier", "output.fc2" if hasattr(model.head, "hidden") else "output.fc")


LAYOUTS = (Layout("timm", timm), Layout("cadene", cadene), Layout("pytorchcv", pytorchcv))
