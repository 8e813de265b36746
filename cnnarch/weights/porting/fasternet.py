"""FasterNet in timm, where the hidden layer is a 1x1 convolution."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_norm

PARTS = {
    "partial.conv": "spatial_mixing.partial_conv3",
    "expand": "mlp.0",
    "norm": "mlp.1",
    "project": "mlp.3",
}


def timm(model: Any) -> Iterator[Pair]:
    """`patch_embed.proj`, `stages.1.downsample.reduction`, `stages.0.blocks.0.mlp.0`."""
    yield from conv_norm("stem", "patch_embed.proj", "patch_embed.norm")
    for i in range(1, len(model.stages)):
        theirs = f"stages.{i}.downsample"
        yield from conv_norm(f"stages.{i}.merging", f"{theirs}.reduction", f"{theirs}.norm")
    for ours, _, i, j in blocks(model):
        for part, name in PARTS.items():
            yield Pair(f"{ours}.branch.{part}", f"stages.{i}.blocks.{j}.{name}")
    yield Pair("head.hidden.fc", "conv_head", (-1, model.head.hidden.fc.in_features, 1, 1))
    yield Pair("head.classifier", "classifier")


LAYOUTS = (Layout("timm", timm),)
