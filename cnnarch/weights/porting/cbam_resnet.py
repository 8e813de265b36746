"""CBAM-ResNet in pytorchcv: the names of its ResNets, with attention outside of the branch."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting import resnet
from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_bn


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage1.unit1.cbam.ch_gate.mlp.fc1`, `...unit1.cbam.sp_gate.conv.bn`."""
    yield from resnet.pytorchcv(model)
    for ours, _, i, j in blocks(model):
        attention, cbam = f"{ours}.branch.attention", f"features.stage{i + 1}.unit{j + 1}.cbam"
        yield Pair(f"{attention}.channel.reduce", f"{cbam}.ch_gate.mlp.fc1")
        yield Pair(f"{attention}.channel.expand", f"{cbam}.ch_gate.mlp.fc2")
        yield from conv_bn(f"{attention}.spatial.score", f"{cbam}.sp_gate.conv")


LAYOUTS = (Layout("pytorchcv", pytorchcv, always(stride_in_1x1=False)),)
