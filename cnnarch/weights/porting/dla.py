"""DLA in timm and pytorchcv. The authors' files have timm's names."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnarch.blocks.aggregation import AggregationTree
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`base_layer.0`, `level0.0`, `level3.tree1.tree2.conv1`, `level3.tree2.root.conv`."""
    yield from conv_norm("stem.conv1", "base_layer.0", "base_layer.1")
    yield from conv_norm("stem.conv2", "level0.0", "level0.1")
    yield from conv_norm("stages.0.0", "level1.0", "level1.1")
    for ours, theirs, tree in _trees(model, "level{}", first=1):
        for half, child in (("first", "tree1"), ("second", "tree2")):
            for k, name in enumerate(_convolutions(tree), start=1):
                block = f"{theirs}.{child}"
                yield from conv_norm(
                    f"{ours}.{half}.branch.{name}", f"{block}.conv{k}", f"{block}.bn{k}"
                )
        project = f"{ours}.first.shortcut.project"
        yield from conv_norm(project, f"{theirs}.project.0", f"{theirs}.project.1")
        yield from conv_bn(f"{ours}.node.merge", f"{theirs}.root")
    yield _classifier(model, "fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1`, `features.stage2.tree1.tree1.body.conv1.conv`."""
    yield from conv_bn("stem.conv1", "features.init_block.conv1")
    yield from conv_bn("stem.conv2", "features.init_block.conv2")
    yield from conv_bn("stages.0.0", "features.init_block.conv3")
    for ours, theirs, tree in _trees(model, "features.stage{}", first=0):
        for half, child in (("first", "tree1"), ("second", "tree2")):
            for k, name in enumerate(_convolutions(tree), start=1):
                conv = f"{theirs}.{child}.body.conv{k}"
                yield from conv_bn(f"{ours}.{half}.branch.{name}", conv)
        yield from conv_bn(f"{ours}.first.shortcut.project", f"{theirs}.tree1.project_conv")
        yield from conv_bn(f"{ours}.node.merge", f"{theirs}.root.conv")
    yield _classifier(model, "output")


def _trees(model: Any, pattern: str, first: int) -> Iterator[tuple[str, str, AggregationTree]]:
    """Yield our and their name of each tree that has blocks, and the tree.

    Their trees have two children: the first subtree, and a tree of everything after it.
    """
    for ours, block, i, _ in blocks(model):
        if isinstance(block, AggregationTree):
            yield from _subtrees(ours, pattern.format(i + first), block)


def _subtrees(
    ours: str, theirs: str, tree: AggregationTree
) -> Iterator[tuple[str, str, AggregationTree]]:
    for k, subtree in enumerate(tree.subtrees):
        assert isinstance(subtree, AggregationTree)
        yield from _subtrees(f"{ours}.subtrees.{k}", f"{theirs}.tree1", subtree)
        theirs = f"{theirs}.tree2"
    yield ours, theirs, tree


def _convolutions(tree: Any) -> list[str]:
    return [name for name, _ in tree.first.branch.named_children()]


def _classifier(model: Any, theirs: str) -> Pair:
    """Return the pair of the classifier, which is a 1x1 convolution in these libraries."""
    return Pair("head.classifier", theirs, (-1, model.num_features, 1, 1))


def _drop_unused_projections(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the projections that the authors' networks have but do not use.

    They are in trees that consist of trees, whose first block has its own projection.
    """
    nested = {found[1] for name in theirs if (found := re.match(r"(.+)\.tree1\.tree1\.", name))}
    parts = {name: name.partition(".project.") for name in theirs}
    return {
        name: tensor
        for name, tensor in theirs.items()
        if not (parts[name][1] and parts[name][0] in nested)
    }


LAYOUTS = (
    Layout("timm", timm, before_port=_drop_unused_projections),
    Layout("pytorchcv", pytorchcv),
)
