"""Xception in timm, as `legacy_xception`, and in pytorchcv."""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, blocks, conv_bn, conv_norm


def timm(model: Any) -> Iterator[Pair]:
    """`conv1`, `block1.skip`, `block1.rep.0.conv1`, where ReLU layers are numbered too."""
    yield from conv_norm("stem.conv1", "conv1", "bn1")
    yield from conv_norm("stem.conv2", "conv2", "bn2")
    number = 0
    for ours, block, _, j in blocks(model):
        if not hasattr(block, "branch"):
            yield from _separable(ours, f"conv{j + 2}", f"bn{j + 2}", "conv1")
            continue
        number += 1
        theirs = f"block{number}"
        yield from conv_norm(f"{ours}.shortcut", f"{theirs}.skip", f"{theirs}.skipbn")
        for k, (part, _) in enumerate(_without_norms(block)):
            if part.startswith("conv"):
                rep = f"{theirs}.rep"
                yield from _separable(
                    f"{ours}.branch.{part}", f"{rep}.{k}", f"{rep}.{k + 1}", "conv1"
                )
    yield Pair("head.classifier", "fc")


def _without_norms(block: Any) -> Iterator[tuple[str, Any]]:
    """Yield the layers of a branch, with a gap after each convolution for its norm."""
    for name, module in block.branch.named_children():
        yield name, module
        if name.startswith("conv"):
            yield "norm", None


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.init_block.conv1`, `features.stage1.unit1.body.block1.conv.dw_conv`."""
    yield from conv_bn("stem.conv1", "features.init_block.conv1")
    yield from conv_bn("stem.conv2", "features.init_block.conv2")
    for ours, block, i, j in blocks(model):
        if not hasattr(block, "branch"):
            theirs = f"features.final_block.conv{j}"
            yield from _separable(ours, f"{theirs}.conv", f"{theirs}.bn", "dw_conv", "pw_conv")
            continue
        theirs = f"features.stage{i + 1}.unit{j + 1}"
        yield from conv_bn(f"{ours}.shortcut", f"{theirs}.identity_conv")
        for part, _ in block.branch.named_children():
            if part.startswith("conv"):
                body = f"{theirs}.body.block{part.removeprefix('conv')}"
                branch = f"{ours}.branch.{part}"
                yield from _separable(branch, f"{body}.conv", f"{body}.bn", "dw_conv", "pw_conv")
    yield Pair("head.classifier", "output")


def _separable(
    ours: str, conv: str, norm: str, depthwise: str, pointwise: str = "pointwise"
) -> Iterator[Pair]:
    yield Pair(f"{ours}.depthwise", f"{conv}.{depthwise}")
    yield Pair(f"{ours}.pointwise", f"{conv}.{pointwise}")
    yield Pair(f"{ours}.norm", norm)


LAYOUTS = (Layout("timm", timm), Layout("pytorchcv", pytorchcv))
