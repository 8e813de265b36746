"""PyramidNet for 32x32 images in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.weights.porting._layout import Layout, Pair, blocks, children, conv_bn


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.body.conv1.bn`, `....unit1.bn`.

    Its norms belong to the convolution that follows them, except for the last one of a block.
    """
    yield from conv_bn("stem", "features.init_block")
    for ours, block, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        convs = children(block.branch, nn.Conv2d)
        *norms, last = children(block.branch, nn.BatchNorm2d)
        for k, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
            yield Pair(f"{ours}.branch.{norm}", f"{theirs}.body.conv{k}.bn")
            yield Pair(f"{ours}.branch.{conv}", f"{theirs}.body.conv{k}.conv")
        yield Pair(f"{ours}.branch.{last}", f"{theirs}.bn")
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "features.post_activ.bn")
    yield Pair("head.classifier", "output")


LAYOUTS = (Layout("pytorchcv", pytorchcv),)
