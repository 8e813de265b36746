"""ResNet and SE-ResNet for 32x32 images in pytorchcv, with projection shortcuts."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, conv_bn
from cnnarch.weights.porting.resnet import units


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.body.conv1.conv`."""
    yield from conv_bn("stem", "features.init_block")
    yield from units(model)
    yield Pair("head.classifier", "output")


LAYOUTS = (Layout("pytorchcv", pytorchcv, always(shortcut="B")),)
