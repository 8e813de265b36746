"""Pre-activation ResNet in pytorchcv, for ImageNet."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, children, conv_norm


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.body.conv1.bn`."""
    yield from conv_norm("stem", "features.init_block.conv", "features.init_block.bn")
    yield from units(model)


def units(model: Any) -> Iterator[Pair]:
    """Yield the pairs of pytorchcv's blocks, last norm and classifier.

    Its norms belong to the convolution that follows them.
    """
    for ours, block, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        convs, norms = (children(block.branch, kind) for kind in (nn.Conv2d, nn.BatchNorm2d))
        norms = [f"{ours}.norm", *(f"{ours}.branch.{name}" for name in norms)]
        for k, (conv, norm) in enumerate(zip(convs, norms, strict=True), start=1):
            body = f"{theirs}.body.conv{k}"
            yield Pair(f"{ours}.branch.{conv}", f"{body}.conv")
            yield Pair(norm, f"{body}.bn")
        yield Pair(f"{ours}.shortcut.conv", f"{theirs}.identity_conv")
    yield Pair(f"stages.{len(model.stages) - 1}.norm", "features.post_activ.bn")
    yield Pair("head.classifier", "output")


LAYOUTS = (
    Layout("pytorchcv", pytorchcv, always(stride_in_1x1=False), architectures="preresnet*b"),
    Layout("pytorchcv", pytorchcv, always(stride_in_1x1=True)),
)
