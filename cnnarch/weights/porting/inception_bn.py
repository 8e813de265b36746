"""BN-Inception in Cadene's pretrainedmodels, converted from Caffe, and in pytorchcv.

The convolutions have biases, which are folded into the running means of our norms: BN(Wx + b)
with mean m equals BN(Wx) with mean m - b.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm

NAMES = (("3a", "3b"), ("3c", "4a", "4b", "4c", "4d"), ("4e", "5a", "5b"))  # from Fig. 5
CAFFE = {
    "branch1x1": "1x1",
    "branch3x3.reduce": "3x3_reduce",
    "branch3x3.conv": "3x3",
    "branch_double.reduce": "double_3x3_reduce",
    "branch_double.conv1": "double_3x3_1",
    "branch_double.conv2": "double_3x3_2",
    "branch_pool.conv": "pool_proj",
}


def cadene(model: Any) -> Iterator[Pair]:
    """`conv1_7x7_s2`, `inception_3a_1x1`, and the same with `_bn` for the norms."""
    yield from _caffe("stem", "conv1_7x7_s2")
    yield from _caffe("stages.0.0", "conv2_3x3_reduce")
    yield from _caffe("stages.0.1", "conv2_3x3")
    for ours, _, i, j in blocks(model):
        for branch, theirs in CAFFE.items() if i else ():
            yield from _caffe(f"{ours}.{branch}", f"inception_{NAMES[i - 1][j]}_{theirs}")
    yield Pair("head.classifier", "last_linear")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage1.unit1.branches.branch2.conv1`, where only existing branches are numbered."""
    yield from conv_bn("stem", "features.init_block.conv1")
    yield from conv_bn("stages.0.0", "features.init_block.conv2.conv1")
    yield from conv_bn("stages.0.1", "features.init_block.conv2.conv2")
    for ours, block, i, j in blocks(model):
        if i:
            yield from _branches(ours, block, f"features.stage{i}.unit{j + 1}.branches")
    yield Pair("head.classifier", "output")


def _branches(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    for k, (name, branch) in enumerate(block.named_children(), start=1):
        if name == "branch1x1":
            yield from conv_bn(f"{ours}.{name}", f"{theirs}.branch{k}")
        elif name == "branch_pool":
            yield from conv_bn(f"{ours}.{name}.conv", f"{theirs}.branch{k}.conv")
        else:
            for n, (conv, _) in enumerate(branch.named_children(), start=1):
                yield from conv_bn(f"{ours}.{name}.{conv}", f"{theirs}.branch{k}.conv{n}")


def _caffe(ours: str, theirs: str) -> Iterator[Pair]:
    return conv_norm(ours, theirs, f"{theirs}_bn")


def _fold_biases(norm_of: Callable[[str], str], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Subtract the convolutions' biases from the running means of their norms."""
    folded = dict(theirs)
    for name, bias in theirs.items():
        mean = f"{norm_of(name.removesuffix('.bias'))}.running_mean"
        if name.endswith(".bias") and mean in theirs and theirs[mean].shape == bias.shape:
            folded[mean] = theirs[mean] - folded.pop(name)
    return folded


def _add_biases(norm_of: Callable[[str], str], theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add a zero bias to every convolution before a norm."""
    biases = {}
    for name, weight in theirs.items():
        conv = name.removesuffix(".weight")
        if name.endswith(".weight") and f"{norm_of(conv)}.running_mean" in theirs:
            biases[f"{conv}.bias"] = weight.new_zeros(weight.shape[0])
    return theirs | biases


def _layout(
    library: str, pairs: Callable[[Any], Iterator[Pair]], norm_of: Callable[[str], str]
) -> Layout:
    before_port, after_export = partial(_fold_biases, norm_of), partial(_add_biases, norm_of)
    return Layout(library, pairs, before_port=before_port, after_export=after_export)


LAYOUTS = (
    _layout("cadene", cadene, lambda conv: f"{conv}_bn"),
    _layout("pytorchcv", pytorchcv, lambda conv: conv.removesuffix(".conv") + ".bn"),
)
