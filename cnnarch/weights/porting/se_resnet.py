"""SE-ResNet and SE-ResNeXt in Cadene's pretrainedmodels, timm and pytorchcv.

timm's `legacy_seresnet18` and `legacy_seresnet34` are different networks: their branches end in a
ReLU before the squeeze. timm's `seresnet18` and `seresnet34` have wider squeeze layers.
"""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.weights.porting import resnet
from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """The names are those of ResNet, plus `layer1.0.se.fc1`."""
    if not _has_bottlenecks(model):
        return
    yield from resnet.torchvision(model)
    yield from squeezes(model, "se")


def cadene(model: Any) -> Iterator[Pair]:
    """`layer0.conv1`, `layer1.0.se_module.fc1`; timm's `legacy_` networks use the same names."""
    if not _has_bottlenecks(model):
        return
    yield from conv_norm("stem", "layer0.conv1", "layer0.bn1")
    yield from resnet.layers(model)
    yield from squeezes(model, "se_module")
    yield Pair("head.classifier", "last_linear")


def squeezes(model: Any, name: str) -> Iterator[Pair]:
    """Yield the pairs of each block's squeeze-and-excitation, which the library calls `name`."""
    for ours, _, i, j in blocks(model):
        yield Pair(f"{ours}.branch.attention.reduce", f"layer{i + 1}.{j}.{name}.fc1")
        yield Pair(f"{ours}.branch.attention.expand", f"layer{i + 1}.{j}.{name}.fc2")


def _caffe(model: Any) -> dict[str, Any]:
    return {"ceil_pool": True, "stride_in_1x1": not _has_groups(model)}


def _stride_in_1x1(model: Any) -> dict[str, Any]:
    in_1x1 = _has_bottlenecks(model) and not _has_groups(model)
    return {"ceil_pool": False, "stride_in_1x1": in_1x1}


def _has_bottlenecks(model: Any) -> bool:
    return all(hasattr(block.branch, "reduce") for _, block, *_ in blocks(model))


def _has_groups(model: Any) -> bool:
    """Return whether the network is an SE-ResNeXt."""
    return any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in model.modules())


_STRIDE_IN_3X3 = always(ceil_pool=False, stride_in_1x1=False)
LAYOUTS = (
    Layout("timm", cadene, _caffe, architectures="legacy_*"),
    Layout("cadene", cadene, _caffe),
    Layout("timm", timm, _STRIDE_IN_3X3, architectures="seres*"),
    Layout("pytorchcv", resnet.pytorchcv, _STRIDE_IN_3X3, architectures="seresnet*b"),
    Layout("pytorchcv", resnet.pytorchcv, _stride_in_1x1),
)
