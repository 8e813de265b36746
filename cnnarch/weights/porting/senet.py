"""SENet-154 in Cadene's pretrainedmodels, timm and pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting import resnet
from cnnarch.weights.porting._layout import Layout, Pair, always, conv_bn, conv_norm
from cnnarch.weights.porting.se_resnet import squeezes


def timm(model: Any) -> Iterator[Pair]:
    """`conv1.0` to `conv1.6`, `bn1` for the last norm of the stem, `layer1.0.se.fc1`."""
    yield from conv_norm("stem.0", "conv1.0", "conv1.1")
    yield from conv_norm("stem.1", "conv1.3", "conv1.4")
    yield from conv_norm("stem.2", "conv1.6", "bn1")
    yield from resnet.layers(model)
    yield from squeezes(model, "se")
    yield Pair("head.classifier", "fc")


def cadene(model: Any) -> Iterator[Pair]:
    """`layer0.conv1`, `layer1.0.se_module.fc1`; timm's `legacy_senet154` uses the same names."""
    for k in range(3):
        yield from conv_norm(f"stem.{k}", f"layer0.conv{k + 1}", f"layer0.bn{k + 1}")
    yield from resnet.layers(model)
    yield from squeezes(model, "se_module")
    yield Pair("head.classifier", "last_linear")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1.conv`, `features.stage1.unit1.se.conv1`."""
    for k in range(3):
        yield from conv_bn(f"stem.{k}", f"features.init_block.conv{k + 1}")
    yield from resnet.units(model)
    yield Pair("head.classifier", "output.fc")


_CAFFE_POOL, _RESNET_POOL = always(ceil_pool=True), always(ceil_pool=False)
LAYOUTS = (
    Layout("timm", cadene, _CAFFE_POOL, architectures="legacy_*"),
    Layout("cadene", cadene, _CAFFE_POOL),
    Layout("timm", timm, _RESNET_POOL),
    Layout("pytorchcv", pytorchcv, _RESNET_POOL),
)
