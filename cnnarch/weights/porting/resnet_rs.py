"""ResNet-RS in timm."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, conv_norm
from cnnarch.weights.porting.resnet_d import layers, stem
from cnnarch.weights.porting.se_resnet import squeezes


def timm(model: Any) -> Iterator[Pair]:
    """The names are those of ResNet-D, plus `maxpool.0` and `layer1.0.se.fc1`."""
    yield from stem()
    yield from conv_norm("stages.0.pool", "maxpool.0", "maxpool.1")
    yield from layers(model)
    yield from squeezes(model, "se")
    yield Pair("head.classifier", "fc")


LAYOUTS = (Layout("timm", timm),)
