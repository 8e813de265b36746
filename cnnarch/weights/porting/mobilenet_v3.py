"""MobileNet V3 in torchvision and timm.

timm's networks have an eps of 1e-5, except for the authors' checkpoints, whose names start with
"tf_".
"""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_norm
from cnnarch.weights.porting.efficientnet import PYTORCH, TENSORFLOW, timm_trunk, torchvision_block


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.1.block.0.0`, `classifier.0`; numbers of blocks continue across stages."""
    yield from conv_norm("stem", "features.0.0", "features.0.1")
    number = 0
    for number, (ours, block, *_) in enumerate(blocks(model), 1):
        yield from torchvision_block(ours, block, f"features.{number}.block")
    theirs = f"features.{number + 1}"
    yield from conv_norm("head.before", f"{theirs}.0", f"{theirs}.1")
    yield Pair("head.hidden.fc", "classifier.0")
    yield Pair("head.classifier", "classifier.3")


def timm(model: Any) -> Iterator[Pair]:
    """EfficientNet's names, but the last stage has one convolution, and the hidden layer is 1x1."""
    yield from timm_trunk(model)
    last = f"blocks.{len(model.stages)}.0"
    yield from conv_norm("head.before", f"{last}.conv", f"{last}.bn1")
    yield Pair("head.hidden.fc", "conv_head", (-1, model.head.hidden.fc.in_features, 1, 1))
    yield Pair("head.classifier", "classifier")


LAYOUTS = (
    Layout("torchvision", torchvision, always(norm_eps=1e-3, padding="symmetric")),
    Layout("timm", timm, PYTORCH, architectures="mobilenetv3_*"),
    Layout("timm", timm, TENSORFLOW, architectures="tf_mobilenetv3_*"),
)
