"""ResNet in torchvision and timm, which agree in every name, and in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.weights.porting import Layout, Pair, conv_norm

__all__ = ["LAYOUTS"]


def torchvision(model: Any) -> Iterator[Pair]:
    """`layer1.0.conv1`, `layer1.0.bn1`, `layer1.0.downsample.0`."""
    yield from conv_norm("stem", "conv1", "bn1")
    for ours, block, i, j in _blocks(model):
        theirs = f"layer{i + 1}.{j}"
        for k, name in enumerate(_convolutions(block), start=1):
            yield from conv_norm(f"{ours}.branch.{name}", f"{theirs}.conv{k}", f"{theirs}.bn{k}")
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.downsample.0", f"{theirs}.downsample.1")
    yield Pair("head.classifier", "fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage1.unit1.body.conv1.conv`, `features.stage1.unit1.identity_conv.conv`."""
    yield from _units("stem", "features.init_block.conv")
    for ours, block, i, j in _blocks(model):
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        for k, name in enumerate(_convolutions(block), start=1):
            yield from _units(f"{ours}.branch.{name}", f"{theirs}.body.conv{k}")
        yield from _units(f"{ours}.shortcut", f"{theirs}.identity_conv")
    yield Pair("head.classifier", "output")


def _units(ours: str, theirs: str) -> Iterator[Pair]:
    return conv_norm(ours, f"{theirs}.conv", f"{theirs}.bn")


def _blocks(model: Any) -> Iterator[tuple[str, Any, int, int]]:
    """Name and module of each block with its stage and its place among the stage's blocks."""
    for i, stage in enumerate(model.stages):
        blocks = [block for block in stage if not isinstance(block, nn.MaxPool2d)]
        for j, block in enumerate(blocks):
            yield f"stages.{i}.{j}", block, i, j


def _convolutions(block: Any) -> list[str]:
    """Their names in order; the paper's plain networks have no branch and no twin elsewhere."""
    return [name for name, _ in block.branch.named_children()] if hasattr(block, "branch") else []


def _stride_in_3x3(_model: Any) -> dict[str, Any]:
    return {"norm_eps": 1e-5, "stride_in_1x1": False}


def _stride_in_1x1(model: Any) -> dict[str, Any]:
    bottlenecks = "reduce" in _convolutions(model.stages[0][-1])
    return {"norm_eps": 1e-5, "stride_in_1x1": bottlenecks}  # basic blocks have no 1x1


LAYOUTS = (
    Layout("torchvision", torchvision, _stride_in_3x3),
    Layout("timm", torchvision, _stride_in_3x3),
    Layout("pytorchcv", pytorchcv, _stride_in_3x3, builders="resnet*b"),
    Layout("pytorchcv", pytorchcv, _stride_in_1x1, builders="resnet*"),
)
