"""MobileNet V1 in timm and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`conv_stem`, `blocks.1.0.conv_dw`, `blocks.1.0.bn1`, `blocks.1.0.conv_pw`."""
    yield from conv_norm("stem", "conv_stem", "bn1")
    for ours, _, i, j in blocks(model):
        theirs = f"blocks.{i}.{j}"
        yield from conv_norm(f"{ours}.depthwise", f"{theirs}.conv_dw", f"{theirs}.bn1")
        yield from conv_norm(f"{ours}.pointwise", f"{theirs}.conv_pw", f"{theirs}.bn2")
    yield Pair("head.classifier", "classifier")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.dw_conv.conv`."""
    yield from conv_bn("stem", "features.init_block")
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        yield from conv_bn(f"{ours}.depthwise", f"{theirs}.dw_conv")
        yield from conv_bn(f"{ours}.pointwise", f"{theirs}.pw_conv")
    yield Pair("head.classifier", "output")


_SHARED = {"norm_eps": 1e-5, "padding": "symmetric"}
LAYOUTS = (
    Layout("timm", timm, always(**_SHARED, activation="relu6")),
    Layout("pytorchcv", pytorchcv, always(**_SHARED, activation="relu")),
)
