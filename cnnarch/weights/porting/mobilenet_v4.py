"""MobileNet V4 in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm
from cnnarch.weights.porting.efficientnet import TIMM_FUSED

UNIVERSAL = {"start": "dw_start", "expand": "pw_exp", "middle": "dw_mid", "project": "pw_proj"}


def timm(model: Any) -> Iterator[Pair]:
    """`blocks.1.0.pw_exp.conv`; the last stage has one convolution, and the hidden layer is 1x1."""
    yield from conv_norm("stem", "conv_stem", "bn1")
    for ours, block, i, j in blocks(model):
        yield from _block(ours, block, f"blocks.{i}.{j}")
    last = f"blocks.{len(model.stages)}.0"
    yield from conv_norm("head.before", f"{last}.conv", f"{last}.bn1")
    yield Pair("head.hidden.fc", "conv_head", (-1, model.head.hidden.fc.in_features, 1, 1))
    yield Pair("head.hidden.norm", "norm_head")
    yield Pair("head.classifier", "classifier")


def _block(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    if hasattr(block, "conv"):
        yield from conv_norm(ours, f"{theirs}.conv", f"{theirs}.bn1")
    elif hasattr(block.branch, "fused"):
        for part, (conv, norm) in TIMM_FUSED.items():
            yield from conv_norm(f"{ours}.branch.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
    else:
        for part, name in UNIVERSAL.items():
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.{name}")


LAYOUTS = (Layout("timm", timm),)
