"""Names of the convolutions in `FactorizedInception`, shared by three families."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from cnnarch.weights.porting._layout import Pair, conv_bn


class BranchConv(NamedTuple):
    """A convolution of a branch.

    Args:
        ours: dotted name of our `ConvNormAct`.
        branch: number of the branch, from 1.
        number: number of the convolution in the branch, from 1. Both parts of a split have the
            same number.
        side: "a" (1x3) or "b" (3x1) in a split, otherwise empty.
        alone: whether it is the only convolution of the branch.
        pooled: whether a pool precedes it in the branch.
        kernel: height and width of the kernel.
    """

    ours: str
    branch: int
    number: int
    side: str
    alone: bool
    pooled: bool
    kernel: tuple[int, int]


def branch_convs(ours: str, block: Any) -> Iterator[BranchConv]:
    """Yield all convolutions of a `FactorizedInception` called `ours`, branch by branch."""
    for i, (name, branch) in enumerate(block.named_children(), start=1):
        layers = [(child, m) for child, m in branch.named_children() if child != "pool"]
        for number, (child, layer) in enumerate(layers, start=1):
            path, pooled = f"{ours}.{name}.{child}", hasattr(branch, "pool")
            sides = (("a", ".conv1x3"), ("b", ".conv3x1")) if child == "split" else (("", ""),)
            for side, suffix in sides:
                conv: nn.Conv2d = layer.get_submodule(f"{suffix}.conv".removeprefix("."))
                height, width = conv.kernel_size
                kernel = (height, width)
                alone = len(layers) == 1
                yield BranchConv(path + suffix, i, number, side, alone, pooled, kernel)


def timm_block(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    """`branch0`, `branch1.0`, where pools are numbered too, and `branch1_1a` beside splits."""
    convs = [*branch_convs(ours, block)]
    for each in convs:
        splits = any(other.side for other in convs if other.branch == each.branch)
        branch, index = f"{theirs}.branch{each.branch - 1}", each.number - 1
        if splits:
            name = f"{branch}_{index}{each.side}"
        elif each.alone and not each.pooled:
            name = branch
        else:
            name = f"{branch}.{index + each.pooled}"
        yield from conv_bn(each.ours, name)


def pytorchcv_block(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    """`branches.branch1.conv`, `branches.branch2.conv_list.conv1`, `branches.branch2.conv1x3`."""
    for each in branch_convs(ours, block):
        branch = f"{theirs}.branches.branch{each.branch}"
        if each.side:
            name = "conv1x3" if each.side == "a" else "conv3x1"
        elif each.alone and (each.pooled or each.kernel == (1, 1)):
            name = "conv"
        else:
            name = f"conv_list.conv{each.number}"
        yield from conv_bn(each.ours, f"{branch}.{name}")


def pytorchcv_stem() -> Iterator[Pair]:
    """`features.init_block.conv1` to `conv3`, the stem of all three families."""
    for part in ("conv1", "conv2", "conv3"):
        yield from conv_bn(f"stem.{part}", f"features.init_block.{part}")
