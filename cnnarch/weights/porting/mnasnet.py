"""MnasNet in torchvision, timm and pytorchcv."""

from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnarch.blocks.squeeze_excite import SE
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm
from cnnarch.weights.porting.efficientnet import squeeze, timm

TORCHVISION = {"expand": 0, "depthwise": 3, "project": 6}
PYTORCHCV_STAGES = (0, 1, 2, 3, 3, 4, 4)  # its stages contain all blocks with the same stride
PYTORCHCV = {"expand": "exp_conv", "depthwise": "dw_conv", "project": "pw_conv"}


def torchvision(model: Any) -> Iterator[Pair]:
    """`layers.8.0.layers.0`; norms follow their convolutions. It has only B1, without SE."""
    if any(isinstance(module, SE) for module in model.modules()):
        return
    yield from conv_norm("stem", "layers.0", "layers.1")
    yield from conv_norm("stages.0.0.branch.depthwise", "layers.3", "layers.4")
    yield from conv_norm("stages.0.0.branch.project", "layers.6", "layers.7")
    for ours, _, i, j in blocks(model):
        if i == 0:
            continue
        theirs = f"layers.{i + 7}.{j}.layers"
        for part, k in TORCHVISION.items():
            yield from conv_norm(f"{ours}.branch.{part}", f"{theirs}.{k}", f"{theirs}.{k + 1}")
    yield from conv_norm("head.before", "layers.14", "layers.15")
    yield Pair("head.classifier", "classifier.1")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage2.unit1.exp_conv.conv`; the first and last blocks have names of their own."""
    yield from conv_bn("stem", "features.init_block.conv1")
    units = Counter[int]()
    for ours, _, i, _ in blocks(model):
        stage = PYTORCHCV_STAGES[i]
        units[stage] += 1
        theirs = f"features.stage{stage}.unit{units[stage]}"
        if i == 0:
            theirs = "features.init_block.conv2"
        elif i == len(model.stages) - 1:
            theirs = "features.final_block.conv1"
        for part, name in PYTORCHCV.items():
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.{name}")
        yield from squeeze(ours, f"{theirs}.se.conv1", f"{theirs}.se.conv2")
    yield from conv_bn("head.before", "features.final_block.conv2")
    yield Pair("head.classifier", "output")


def _with_version(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the metadata without which torchvision's network loads no state dict."""
    versioned = OrderedDict(tensors)
    setattr(versioned, "_metadata", {"": {"version": 2}})  # noqa: B010 - mypy rejects =
    return versioned


LAYOUTS = (
    Layout("torchvision", torchvision, after_export=_with_version),
    Layout("timm", timm),
    Layout("pytorchcv", pytorchcv),
)
