"""ConvNeXt V2 in timm: ConvNeXt's names, and those of the global response normalization."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnarch.weights.porting import convnext
from cnnarch.weights.porting._layout import Layout, Pair, blocks

STAGE = re.compile(r"stages\.(\d+)\.blocks\.0\.mlp\.fc2\.bias")


def timm(model: Any) -> Iterator[Pair]:
    """`stages.0.blocks.0.mlp.grn.weight`, our gamma, and `bias`, our beta."""
    yield from convnext.timm(model)
    for ours, _, i, j in blocks(model):
        theirs = f"stages.{i}.blocks.{j}.mlp.grn"
        yield Pair(f"{ours}.mlp.grn.gamma", f"{theirs}.weight")
        yield Pair(f"{ours}.mlp.grn.beta", f"{theirs}.bias")


def _with_last_norm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the last norm to pretrained networks without a head, which lack it; timm adds it too."""
    last = max(filter(None, map(STAGE.fullmatch, tensors)), key=lambda m: int(m[1]), default=None)
    if last is None or any(name.startswith("head.") for name in tensors):
        return tensors
    like = tensors[last[0]]
    norm = {"weight": torch.ones_like(like), "bias": torch.zeros_like(like)}
    return tensors | {f"head.norm.{name}": tensor for name, tensor in norm.items()}


LAYOUTS = (Layout("timm", timm, before_port=_with_last_norm),)
