"""SK-ResNet in timm, and SKNet-50 in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.blocks.selective_kernel import SelectiveKernel
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`layer1.0.conv1.paths.0.conv`, `layer1.0.conv1.attn.fc_reduce`, `layer1.0.conv2.bn`."""
    yield from conv_norm("stem", "conv1", "bn1")
    for ours, block, i, j in blocks(model):
        theirs = f"layer{i + 1}.{j}"
        for k, (name, child) in enumerate(block.branch.named_children(), start=1):
            branch, conv = f"{ours}.branch.{name}", f"{theirs}.conv{k}"
            yield from conv_bn(branch, conv)
            if isinstance(child, SelectiveKernel):
                for path in range(len(child.paths)):
                    yield from conv_bn(f"{branch}.paths.{path}", f"{conv}.paths.{path}")
                attention = f"{branch}.attention"
                yield from conv_norm(
                    f"{attention}.reduce", f"{conv}.attn.fc_reduce", f"{conv}.attn.bn"
                )
                yield Pair(f"{attention}.expand", f"{conv}.attn.fc_select")
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield Pair("head.classifier", "fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage1.unit1.body.conv2.branches.branch2.conv`, `...body.conv2.fc1.conv`."""
    yield from conv_bn("stem", "features.init_block.conv")
    for ours, block, i, j in blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for k, (name, child) in enumerate(block.branch.named_children(), start=1):
            branch, conv = f"{ours}.branch.{name}", f"{theirs}.body.conv{k}"
            yield from conv_bn(branch, conv)
            if isinstance(child, SelectiveKernel):
                for path in range(len(child.paths)):
                    yield from conv_bn(
                        f"{branch}.paths.{path}", f"{conv}.branches.branch{path + 2}"
                    )
                yield from conv_bn(f"{branch}.attention.reduce", f"{conv}.fc1")
                yield Pair(f"{branch}.attention.expand", f"{conv}.fc2")
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.identity_conv")
    yield Pair("head.classifier", "output")


LAYOUTS = (Layout("timm", timm), Layout("pytorchcv", pytorchcv))
