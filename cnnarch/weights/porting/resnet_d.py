"""ResNet-C, ResNet-D and ECA-ResNet in timm, and ResNet-D in pytorchcv (there ResNet-A)."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting import resnet
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`conv1.0`, `bn1` for the last norm of the stem, `layer1.0.downsample.1`."""
    yield from stem()
    yield from layers(model)
    for ours, _, i, j in blocks(model):
        yield Pair(f"{ours}.branch.attention.conv", f"layer{i + 1}.{j}.se.conv")
    yield Pair("head.classifier", "fc")


def stem() -> Iterator[Pair]:
    """Yield the pairs of timm's deep stem."""
    yield from conv_norm("stem.0", "conv1.0", "conv1.1")
    yield from conv_norm("stem.1", "conv1.3", "conv1.4")
    yield from conv_norm("stem.2", "conv1.6", "bn1")


def layers(model: Any) -> Iterator[Pair]:
    """Yield the pairs of timm's blocks, whose shortcuts are numbered from the pool on."""
    yield from resnet.layers(model)
    for ours, _, i, j in blocks(model):
        theirs = f"layer{i + 1}.{j}.downsample"
        yield from conv_norm(f"{ours}.shortcut.project", f"{theirs}.1", f"{theirs}.2")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1.conv`, `features.stage2.unit1.identity_block.conv.conv`."""
    for k in range(3):
        yield from conv_bn(f"stem.{k}", f"features.init_block.conv{k + 1}")
    yield from resnet.units(model)
    for ours, _, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}.identity_block.conv"
        yield from conv_bn(f"{ours}.shortcut.project", theirs)
    yield Pair("head.classifier", "output")


LAYOUTS = (Layout("timm", timm), Layout("pytorchcv", pytorchcv))
