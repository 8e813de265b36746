"""ShuffleNet in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm

PARTS = {
    "reduce": ("compress_conv1", "compress_bn1"),
    "depthwise": ("dw_conv2", "dw_bn2"),
    "expand": ("expand_conv3", "expand_bn3"),
}


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.compress_conv1`."""
    yield from conv_bn("stem", "features.init_block")
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for part, (conv, norm) in PARTS.items():
            yield from conv_norm(f"{ours}.branch.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
    yield Pair("head.classifier", "output")


LAYOUTS = (Layout("pytorchcv", pytorchcv),)
