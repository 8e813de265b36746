"""ResNet in torchvision, timm and pytorchcv. torchvision and timm use the same names."""

from collections.abc import Iterator
from typing import Any

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_bn, conv_norm


def torchvision(model: Any) -> Iterator[Pair]:
    """`conv1`, `layer1.0.conv1`, `layer1.0.bn1`, `layer1.0.downsample.0`."""
    yield from conv_norm("stem", "conv1", "bn1")
    yield from layers(model)
    yield Pair("head.classifier", "fc")


def layers(model: Any) -> Iterator[Pair]:
    """Yield the pairs of torchvision's blocks."""
    for ours, block, i, j in blocks(model):
        theirs = f"layer{i + 1}.{j}"
        for k, name in enumerate(_convolutions(block), start=1):
            yield from conv_norm(f"{ours}.branch.{name}", f"{theirs}.conv{k}", f"{theirs}.bn{k}")
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv.conv`, `features.stage1.unit1.body.conv1.conv`."""
    yield from conv_bn("stem", "features.init_block.conv")
    yield from units(model)
    yield Pair("head.classifier", "output")


def units(model: Any) -> Iterator[Pair]:
    """Yield the pairs of pytorchcv's blocks, with or without squeeze-and-excitation."""
    for ours, block, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for k, name in enumerate(_convolutions(block), start=1):
            yield from conv_bn(f"{ours}.branch.{name}", f"{theirs}.body.conv{k}")
        yield Pair(f"{ours}.branch.attention.reduce", f"{theirs}.se.conv1")
        yield Pair(f"{ours}.branch.attention.expand", f"{theirs}.se.conv2")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.identity_conv")


def _convolutions(block: Any) -> list[str]:
    """Return the convolutions' names in order; empty for plain networks, which have no layout."""
    children = block.branch.named_children() if hasattr(block, "branch") else ()
    return [name for name, child in children if isinstance(child, ConvNormAct)]


def _stride_in_1x1(model: Any) -> dict[str, Any]:
    bottlenecks = "reduce" in _convolutions(model.stages[0][-1])
    return {"stride_in_1x1": bottlenecks}  # basic blocks have no 1x1 convolution


_STRIDE_IN_3X3 = always(stride_in_1x1=False)
LAYOUTS = (
    Layout("torchvision", torchvision, _STRIDE_IN_3X3),
    Layout("timm", torchvision, _STRIDE_IN_3X3),
    Layout("pytorchcv", pytorchcv, _STRIDE_IN_3X3, architectures="resnet*b"),
    Layout("pytorchcv", pytorchcv, _stride_in_1x1, architectures="resnet*"),
)
