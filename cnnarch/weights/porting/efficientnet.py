"""EfficientNet, Lite too, in efficientnet_pytorch, whose tensors are the authors'."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting import Layout, Pair, conv_norm

__all__ = ["LAYOUTS"]


def efficientnet_pytorch(model: Any) -> Iterator[Pair]:
    """`_conv_stem`, `_bn0`, `_blocks.0._depthwise_conv`; blocks are counted through."""
    yield from conv_norm("stem", "_conv_stem", "_bn0")
    for number, ours in enumerate(_blocks(model)):
        theirs = f"_blocks.{number}"
        yield from conv_norm(f"{ours}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        yield from conv_norm(f"{ours}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        yield Pair(f"{ours}.se.reduce", f"{theirs}._se_reduce")
        yield Pair(f"{ours}.se.expand", f"{theirs}._se_expand")
        yield from conv_norm(f"{ours}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    yield from conv_norm("head.before", "_conv_head", "_bn1")
    yield Pair("head.classifier", "_fc")


def _blocks(model: Any) -> list[str]:
    """Names of the blocks' branches through all stages."""
    return [
        f"stages.{i}.{j}.branch" for i, stage in enumerate(model.stages) for j in range(len(stage))
    ]


def _tensorflow(_model: Any) -> dict[str, Any]:
    return {"norm_eps": 1e-3, "padding": "same"}


LAYOUTS = (Layout("efficientnet_pytorch", efficientnet_pytorch, _tensorflow),)
