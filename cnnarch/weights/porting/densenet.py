"""DenseNet in torchvision, timm and pytorchcv. torchvision and timm use the same names."""

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnarch.weights.porting._layout import Layout, Pair, conv_bn, conv_norm


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.conv0`, `features.denseblock1.denselayer1.norm1`, `features.transition1`."""
    yield from conv_norm("stem", "features.conv0", "features.norm0")
    for ours, i, k in _layers(model):
        theirs = f"features.denseblock{i + 1}.denselayer{k + 1}"
        yield from conv_norm(f"{ours}.reduce", f"{theirs}.conv1", f"{theirs}.norm1")
        yield from conv_norm(f"{ours}.conv", f"{theirs}.conv2", f"{theirs}.norm2")
    last = len(model.stages) - 1
    for i in range(1, last + 1):
        yield Pair(f"stages.{i}.transition", f"features.transition{i}")
    yield Pair(f"stages.{last}.norm", f"features.norm{last + 2}")
    yield Pair("head.classifier", "classifier")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.conv1.bn`, `features.stage2.trans2`."""
    yield from conv_bn("stem", "features.init_block")
    yield from units(model)


def units(model: Any) -> Iterator[Pair]:
    """Yield the pairs of all layers except the stem; also used for pytorchcv's CIFAR networks."""
    for ours, i, k in _layers(model):
        theirs = f"features.stage{i + 1}.unit{k + 1}"
        for n, (name, _) in enumerate(model.get_submodule(ours).named_children(), start=1):
            yield from conv_bn(f"{ours}.{name}", f"{theirs}.conv{n}")
    last = len(model.stages) - 1
    for i in range(1, last + 1):
        theirs = f"features.stage{i + 1}.trans{i + 1}.conv"
        yield from conv_bn(f"stages.{i}.transition", theirs)
    yield Pair(f"stages.{last}.norm", "features.post_activ.bn")
    yield Pair("head.classifier", "output")


def _layers(model: Any) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each dense layer, its stage and its index in the dense block."""
    for i, stage in enumerate(model.stages):
        for k in range(len(stage.get_submodule("0"))):
            yield f"stages.{i}.0.{k}", i, k


def _rename_2017_layers(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename `denselayer1.norm.1` in torchvision's 2017 checkpoints to `denselayer1.norm1`."""
    old = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12]\.)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in theirs.items()}


LAYOUTS = (
    Layout("torchvision", torchvision, before_port=_rename_2017_layers),
    Layout("timm", torchvision, before_port=_rename_2017_layers),
    Layout("pytorchcv", pytorchcv),
)
