"""Pre-activation ResNet for 32x32 images in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair
from cnnarch.weights.porting.preresnet import units


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block`, `features.stage1.unit1.body.conv1.bn`."""
    yield Pair("stem.conv", "features.init_block")
    yield from units(model)


def _options(model: Any) -> dict[str, Any]:
    """Return the options that pytorchcv's blocks require."""
    if hasattr(model.stages[0][0].branch, "reduce"):  # a bottleneck
        return {"stride_in_1x1": False}
    return {"shortcut": "B", "activate_first": False}


LAYOUTS = (Layout("pytorchcv", pytorchcv, _options),)
