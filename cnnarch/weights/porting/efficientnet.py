"""EfficientNet in torchvision, timm, efficientnet_pytorch and pytorchcv.

The networks differ in BatchNorm's eps and in the padding of strided convolutions, often with the
same tensor names. The authors' checkpoints need an eps of 1e-3 and TensorFlow's padding.
"""

from collections.abc import Iterator
from typing import Any

from cnnarch.weights.porting._layout import Layout, Pair, always, blocks, conv_bn, conv_norm

B5_FEATURES = 2048  # width of B5's head; torchvision uses an eps of 1e-3 for B5 and larger
TIMM = {
    "expand": ("conv_pw", "bn1"),
    "depthwise": ("conv_dw", "bn2"),
    "project": ("conv_pwl", "bn3"),
}
TIMM_NOT_EXPANDED = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
TIMM_FUSED = {"fused": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")}
TIMM_ONE_LAYER = {"fused": ("conv", "bn1")}
PYTORCHCV = {"expand": "conv1", "depthwise": "conv2", "project": "conv3"}
PYTORCHCV_NOT_EXPANDED = {"depthwise": "dw_conv", "project": "pw_conv"}


def torchvision(model: Any) -> Iterator[Pair]:
    """`features.1.0.block.0.0`; the numbers are those of stages, blocks and layers."""
    yield from conv_norm("stem", "features.0.0", "features.0.1")
    for ours, block, i, j in blocks(model):
        yield from torchvision_block(ours, block, f"features.{i + 1}.{j}.block")
    last = len(model.stages) + 1
    yield from conv_norm("head.before", f"features.{last}.0", f"features.{last}.1")
    yield Pair("head.classifier", "classifier.1")


def torchvision_block(ours: str, block: Any, theirs: str) -> Iterator[Pair]:
    """`0.0`, `1.0`, `2.fc1`, where only the layers that a block contains are numbered."""
    for k, (part, _) in enumerate(block.branch.named_children()):
        if part == "se":
            yield from squeeze(ours, f"{theirs}.{k}.fc1", f"{theirs}.{k}.fc2")
        else:
            yield from conv_norm(f"{ours}.branch.{part}", f"{theirs}.{k}.0", f"{theirs}.{k}.1")


def timm_trunk(model: Any) -> Iterator[Pair]:
    """`conv_stem`, `blocks.1.0.conv_pw`, `blocks.1.0.se.conv_reduce`."""
    yield from conv_norm("stem", "conv_stem", "bn1")
    for ours, block, i, j in blocks(model):
        theirs = f"blocks.{i}.{j}"
        for part, (conv, norm) in _timm_names(block.branch).items():
            yield from conv_norm(f"{ours}.branch.{part}", f"{theirs}.{conv}", f"{theirs}.{norm}")
        yield from squeeze(ours, f"{theirs}.se.conv_reduce", f"{theirs}.se.conv_expand")


def _timm_names(branch: Any) -> dict[str, tuple[str, str]]:
    if hasattr(branch, "fused"):
        return TIMM_FUSED if hasattr(branch, "project") else TIMM_ONE_LAYER
    return TIMM if hasattr(branch, "expand") else TIMM_NOT_EXPANDED


def timm(model: Any) -> Iterator[Pair]:
    """The trunk and `conv_head`, `bn2`, `classifier`."""
    yield from timm_trunk(model)
    yield from conv_norm("head.before", "conv_head", "bn2")
    yield Pair("head.classifier", "classifier")


def efficientnet_pytorch(model: Any) -> Iterator[Pair]:
    """`_conv_stem`, `_bn0`, `_blocks.0._depthwise_conv`; block numbers continue across stages."""
    yield from conv_norm("stem", "_conv_stem", "_bn0")
    for number, (ours, *_) in enumerate(blocks(model)):
        branch, theirs = f"{ours}.branch", f"_blocks.{number}"
        yield from conv_norm(f"{branch}.expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        yield from conv_norm(f"{branch}.depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1")
        yield from squeeze(ours, f"{theirs}._se_reduce", f"{theirs}._se_expand")
        yield from conv_norm(f"{branch}.project", f"{theirs}._project_conv", f"{theirs}._bn2")
    yield from conv_norm("head.before", "_conv_head", "_bn1")
    yield Pair("head.classifier", "_fc")


def pytorchcv(model: Any) -> Iterator[Pair]:
    """`features.stage4.unit1.conv1.conv`; a stage contains all blocks with the same stride."""
    yield from conv_bn("stem", "features.init_block.conv")
    stage = unit = 0
    for ours, block, i, j in blocks(model):
        downsampled = j == 0 and (i == 0 or block.branch.depthwise.conv.stride != (1, 1))
        stage, unit = (stage + 1, 1) if downsampled else (stage, unit + 1)
        theirs = f"features.stage{stage}.unit{unit}"
        names = PYTORCHCV if _is_expanded(block) else PYTORCHCV_NOT_EXPANDED
        for part, name in names.items():
            yield from conv_bn(f"{ours}.branch.{part}", f"{theirs}.{name}")
        yield from squeeze(ours, f"{theirs}.se.conv1", f"{theirs}.se.conv2")
    yield from conv_bn("head.before", "features.final_block")
    yield Pair("head.classifier", "output.fc")


def _is_expanded(block: Any) -> bool:
    return hasattr(block.branch, "expand")


def squeeze(ours: str, reduce: str, expand: str) -> Iterator[Pair]:
    """Yield the pairs of a block's squeeze-and-excitation."""
    yield Pair(f"{ours}.branch.se.reduce", reduce)
    yield Pair(f"{ours}.branch.se.expand", expand)


def _torchvision_options(model: Any) -> dict[str, Any]:
    return {"norm_eps": 1e-3 if model.num_features >= B5_FEATURES else 1e-5, "padding": "symmetric"}


PYTORCH = always(norm_eps=1e-5, padding="symmetric")
TENSORFLOW = always(norm_eps=1e-3, padding="same")  # as in the authors' code
LAYOUTS = (
    Layout("torchvision", torchvision, _torchvision_options),
    Layout("timm", timm, PYTORCH, architectures="efficientnet_*"),
    Layout("timm", timm, TENSORFLOW, architectures="tf_efficientnet_*"),
    Layout("efficientnet_pytorch", efficientnet_pytorch, TENSORFLOW),
    Layout("pytorchcv", pytorchcv, PYTORCH, architectures="efficientnet_b[0-9]"),
    Layout("pytorchcv", pytorchcv, TENSORFLOW, architectures="efficientnet_b[0-9][bc]"),
)
