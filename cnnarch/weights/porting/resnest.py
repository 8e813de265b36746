"""ResNeSt in timm and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting import resnet_d
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`conv1.0`, `layer1.0.conv2.conv`, `layer1.0.conv2.fc1`, `layer2.0.downsample.1`."""
    yield from resnet_d.stem()
    for ours, _, i, j in blocks(model):
        branch, theirs = f"{ours}.branch", f"layer{i + 1}.{j}"
        yield from conv_norm(f"{branch}.reduce", f"{theirs}.conv1", f"{theirs}.bn1")
        split, attention = f"{theirs}.conv2", f"{branch}.attention.attention"
        yield from conv_norm(f"{branch}.conv", f"{split}.conv", f"{split}.bn0")
        yield from conv_norm(f"{attention}.reduce", f"{split}.fc1", f"{split}.bn1")
        yield Pair(f"{attention}.expand", f"{split}.fc2")
        yield from conv_norm(f"{branch}.expand", f"{theirs}.conv3", f"{theirs}.bn3")
        shortcut = f"{ours}.shortcut.project"
        yield from conv_norm(shortcut, f"{theirs}.downsample.1", f"{theirs}.downsample.2")
    yield Pair("head.classifier", "fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1.conv`, `features.stage1.unit1.body.conv2.att.conv1`."""
    for k in range(3):
        yield from conv_bn(f"stem.{k}", f"features.init_block.conv{k + 1}")
    for ours, _, i, j in blocks(model):
        branch, theirs = f"{ours}.branch", f"features.stage{i + 1}.unit{j + 1}"
        split, attention = f"{theirs}.body.conv2", f"{branch}.attention.attention"
        yield from conv_bn(f"{branch}.reduce", f"{theirs}.body.conv1")
        yield from conv_bn(f"{branch}.conv", f"{split}.conv")
        yield from conv_norm(f"{attention}.reduce", f"{split}.att.conv1", f"{split}.att.bn")
        yield Pair(f"{attention}.expand", f"{split}.att.conv2")
        yield from conv_bn(f"{branch}.expand", f"{theirs}.body.conv3")
        yield from conv_bn(f"{ours}.shortcut.project", f"{theirs}.identity_block.conv")
    yield Pair("head.classifier", "output.fc")


LAYOUTS = (Layout("timm", timm), Layout("pytorchcv", pytorchcv))
