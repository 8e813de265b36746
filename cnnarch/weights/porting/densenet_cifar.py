"""DenseNet-BC for 32x32 images in pytorchcv, whose other DenseNets are not in any paper."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair
from cnnarch.weights.porting.densenet import units


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block`, `features.stage1.unit1.conv1.bn`, `features.stage2.trans2`."""
    yield Pair("stem.conv", "features.init_block")
    yield from units(model)


LAYOUTS = (Layout("pytorchcv", pytorchcv),)
