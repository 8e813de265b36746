"""VGG in torchvision, timm and pytorchcv. torchvision and timm differ only in the head."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnarch.blocks.normalization import LRN
from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def torchvision(model: Any) -> Iterator[Pair]:
    """Yield the pairs; indices in `features` count every layer, including pools and ReLUs."""
    yield from _features(model)
    yield Pair("head.hidden.fc6", "classifier.0")
    yield Pair("head.hidden.fc7", "classifier.3")
    yield Pair("head.classifier", "classifier.6")


def timm(model: Any) -> Iterator[Pair]:
    """Features as in torchvision; the hidden layers are 7x7 and 1x1 convolutions."""
    yield from _features(model)
    channels = model.head.hidden.fc6.in_features // 7**2
    yield Pair("head.hidden.fc6", "pre_logits.fc1", (-1, channels, 7, 7))
    yield Pair("head.hidden.fc7", "pre_logits.fc2", (-1, model.num_features, 1, 1))
    yield Pair("head.classifier", "head.fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage1.unit2.conv`, `output.fc1.fc`."""
    if not _in_libraries(model):
        return
    yield from conv_bn("stem", "features.stage1.unit1")
    for ours, _, i, j in blocks(model):
        yield from conv_bn(ours, f"features.stage{i + 1}.unit{j + (2 if i == 0 else 1)}")
    yield Pair("head.hidden.fc6", "output.fc1.fc")
    yield Pair("head.hidden.fc7", "output.fc2.fc")
    yield Pair("head.classifier", "output.fc3")


def _features(model: Any) -> Iterator[Pair]:
    if not _in_libraries(model):
        return
    yield from conv_norm("stem", "features.0", "features.1")
    index = len(model.stem)
    for i, stage in enumerate(model.stages):
        for name, layer in stage.named_children():
            if not isinstance(layer, nn.MaxPool2d):
                theirs = f"features.{index}", f"features.{index + 1}"
                yield from conv_norm(f"stages.{i}.{name}", *theirs)
                index += len(layer)
        index += 1  # the pool, which a network for small images may lack


def _in_libraries(model: Any) -> bool:
    """Return whether other libraries provide the network; they lack only A-LRN and C."""
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    return kernels == {(3, 3)} and not any(isinstance(m, LRN) for m in model.modules())


LAYOUTS = (
    Layout("torchvision", torchvision),
    Layout("timm", timm),
    Layout("pytorchcv", pytorchcv),
)
