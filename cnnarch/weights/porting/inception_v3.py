"""Inception v3 in torchvision, timm and pretrainedmodels, and in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._inception import branch_convs, pytorchcv_block, pytorchcv_stem
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn

CONVS = {
    "stem.conv1": "Conv2d_1a_3x3",
    "stem.conv2": "Conv2d_2a_3x3",
    "stem.conv3": "Conv2d_2b_3x3",
    "stages.0.0": "Conv2d_3b_1x1",
    "stages.0.1": "Conv2d_4a_3x3",
}
BRANCHES = {  # by kind of block
    "A": ("branch1x1", "branch5x5", "branch3x3dbl", "branch_pool"),
    "reduction A": ("branch3x3", "branch3x3dbl"),
    "B": ("branch1x1", "branch7x7", "branch7x7dbl", "branch_pool"),
    "reduction B": ("branch3x3", "branch7x7x3"),
    "C": ("branch1x1", "branch3x3", "branch3x3dbl", "branch_pool"),
}
KINDS = (("A", "A"), ("reduction A", "B"), ("reduction B", "C"))  # first and later blocks


def torchvision(model: Any) -> Iterator[Pair]:
    """`Conv2d_1a_3x3`, `Mixed_5b.branch5x5_1`, `AuxLogits.conv0`, `fc`."""
    for ours, theirs in CONVS.items():
        yield from conv_bn(ours, theirs)
    for ours, block, i, j in blocks(model):
        for each in branch_convs(ours, block) if i else ():
            name = BRANCHES[KINDS[i - 1][j > 0]][each.branch - 1]
            suffix = "" if each.alone else f"_{each.number}{each.side}"
            yield from conv_bn(each.ours, f"Mixed_{i + 4}{'abcdefgh'[j + (i == 1)]}.{name}{suffix}")
    for k in (1, 2):
        yield from conv_bn(f"aux1.pool.conv{k}", f"AuxLogits.conv{k - 1}")
    yield Pair("aux1.classifier", "AuxLogits.fc")
    yield Pair("head.classifier", "fc")


def cadene(model: Any) -> Iterator[Pair]:
    """The names of torchvision, except for `last_linear`."""
    for pair in torchvision(model):
        yield pair._replace(theirs="last_linear") if pair.theirs == "fc" else pair


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1`, `features.stage1.unit1.branches.branch2.conv_list.conv1`."""
    yield from pytorchcv_stem()
    yield from conv_bn("stages.0.0", "features.init_block.conv4")
    yield from conv_bn("stages.0.1", "features.init_block.conv5")
    for ours, block, i, j in blocks(model):
        if i:
            yield from pytorchcv_block(ours, block, f"features.stage{i}.unit{j + 1}")
    yield Pair("head.classifier", "output.fc")


LAYOUTS = (
    Layout("torchvision", torchvision, ignored=("AuxLogits",)),
    Layout("timm", torchvision, ignored=("AuxLogits",)),
    Layout("cadene", cadene, ignored=("AuxLogits",)),
    Layout("pytorchcv", pytorchcv),
)
