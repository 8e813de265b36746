"""One-tower AlexNet in torchvision and pytorchcv.

In pytorchcv, `alexnet` with local response normalization differs from the paper: its alpha is
1e-4 / 5.
"""

from collections.abc import Iterator
from typing import Any

from cnnarch.blocks.normalization import LRN
from cnnarch.weights.porting._layout import Layout, Pair

CONVOLUTIONS = ("stem", "stages.1.0", "stages.2.0", "stages.2.1", "stages.2.2")
LINEAR = ("head.hidden.fc6", "head.hidden.fc7", "head.classifier")


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.0` to `features.10`, `classifier.1` to `classifier.6`."""
    if _has_lrn(model):
        return
    for ours, index in zip(CONVOLUTIONS, (0, 3, 6, 8, 10), strict=True):
        yield Pair(f"{ours}.conv", f"features.{index}")
    for ours, index in zip(LINEAR, (1, 4, 6), strict=True):
        yield Pair(ours, f"classifier.{index}")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage3.unit1.conv`, `output.fc1.fc`."""
    if _has_lrn(model):
        return
    units = ("stage1.unit1", "stage2.unit1", "stage3.unit1", "stage3.unit2", "stage3.unit3")
    for ours, unit in zip(CONVOLUTIONS, units, strict=True):
        yield Pair(f"{ours}.conv", f"features.{unit}.conv")
    for ours, theirs in zip(LINEAR, ("fc1.fc", "fc2.fc", "fc3"), strict=True):
        yield Pair(ours, f"output.{theirs}")


def _has_lrn(model: Any) -> bool:
    return any(isinstance(m, LRN) for m in model.modules())


LAYOUTS = (
    Layout("torchvision", torchvision),
    Layout("pytorchcv", pytorchcv),
)
