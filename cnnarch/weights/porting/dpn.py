"""Dual Path Networks in timm, Cadene's pretrainedmodels and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

PARTS = {"reduce": "c1x1_a", "conv": "c3x3_b", "expand": "c1x1_c"}


def timm(model: Any) -> Iterator[Pair]:
    """`features.conv1_1.conv`, `features.conv2_1.c1x1_a.bn`, `features.conv2_1.c1x1_w_s1.bn`."""
    yield from _features(model)
    yield _classifier(model, "classifier")


def cadene(model: Any) -> Iterator[Pair]:
    """The names in timm, except for the classifier."""
    yield from _features(model)
    yield _classifier(model, "last_linear")


def _features(model: Any) -> Iterator[Pair]:
    yield from conv_bn("stem", "features.conv1_1")
    for ours, _, i, j in blocks(model):
        theirs = f"features.conv{i + 2}_{j + 1}"
        for part, name in PARTS.items():
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.{name}")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.c1x1_w_s{2 if i else 1}")
    last = len(model.stages) - 1
    yield Pair(f"stages.{last}.norm", f"features.conv{last + 2}_bn_ac.bn")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.conv1.bn`."""
    yield from conv_bn("stem", "features.init_block")
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for k, part in enumerate(PARTS, start=1):
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.conv{k}")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.conv_proj")
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "features.final_block.activ.bn")
    yield _classifier(model, "output.classifier")


def _classifier(model: Any, theirs: str) -> Pair:
    """Return the pair of the classifier, which is a 1x1 convolution in these libraries."""
    return Pair("head.classifier", theirs, (-1, model.num_features, 1, 1))


LAYOUTS = (
    Layout("timm", timm),
    Layout("cadene", cadene),
    Layout("pytorchcv", pytorchcv),
)
