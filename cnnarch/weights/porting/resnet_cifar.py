"""ResNet for 32x32 images in pytorchcv and in two repositories that many checkpoints come from.

- https://github.com/akamaster/pytorch_resnet_cifar10, with shortcuts without parameters
- https://github.com/bearpaw/pytorch-classification, with 1x1 convolutions
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnarch.weights.porting._layout import Layout, Pair, always, conv_bn, conv_norm
from cnnarch.weights.porting.resnet import layers, units

WIDTHS = (16, 32, 64)


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv`, `features.stage1.unit1.body.conv1.conv`."""
    yield from conv_bn("stem", "features.init_block")
    yield from units(model)
    yield Pair("head.classifier", "output")


def repository(classifier: str, model: Any) -> Iterator[Pair]:
    """`conv1`, `layer1.0.conv1`, `layer1.0.bn1`, `layer2.0.downsample.0`."""
    yield from conv_norm("stem", "conv1", "bn1")
    yield from layers(model)
    yield Pair("head.classifier", classifier)


def append_zeros(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Reorder channels for shortcuts that append the zero channels.

    In pytorch_resnet_cifar10 a shortcut adds half of them before the map's own channels.
    """
    return _reorder(theirs, _channel_orders())


def surround_with_zeros(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `append_zeros`."""
    return _reorder(theirs, [order.argsort() for order in _channel_orders()])


def _channel_orders() -> list[Tensor]:
    """Return their channel for each of ours, in each stage's output."""
    orders = [torch.arange(WIDTHS[0], device="cpu")]
    for width in WIDTHS[1:]:
        own = orders[-1] + width // 4
        zeros = [channel for channel in range(width) if channel not in own]
        orders.append(torch.cat([own, torch.tensor(zeros, device="cpu")]))
    return orders


def _reorder(theirs: dict[str, Tensor], orders: list[Tensor]) -> dict[str, Tensor]:
    reordered = dict(theirs)
    for name, tensor in theirs.items():
        layer, *rest = name.split(".")
        outputs: Tensor | None = None
        inputs: Tensor | None = None
        if layer == "linear":
            inputs = orders[-1]
        elif layer in ("layer1", "layer2", "layer3"):
            stage, block = int(layer[-1]) - 1, rest[0]
            outputs = orders[stage] if rest[1] in ("conv2", "bn2") else None
            if rest[1] == "conv1":
                inputs = orders[stage - 1 if block == "0" and stage else stage]
        else:
            continue
        if outputs is not None and tensor.dim() and len(tensor) == len(outputs):
            reordered[name] = tensor[outputs]
        elif inputs is not None and tensor.dim() > 1 and tensor.shape[1] == len(inputs):
            reordered[name] = tensor[:, inputs]
    return reordered


LAYOUTS = (
    Layout("pytorchcv", pytorchcv, always(shortcut="B")),
    Layout("pytorch_classification", partial(repository, "fc"), always(shortcut="B")),
    Layout(
        "pytorch_resnet_cifar10",
        partial(repository, "linear"),
        always(shortcut="A"),
        before_port=append_zeros,
        after_export=surround_with_zeros,
    ),
)
