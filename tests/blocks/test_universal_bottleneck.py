"""The universal inverted bottleneck against the paper, timm's block and manual calculations."""

import pytest
import torch
from timm.models._efficientnet_blocks import UniversalInvertedResidual
from torch import nn

from cnnarch.blocks import InvertedResidual, StochasticDepth, UniversalInvertedBottleneck
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms

KINDS = {  # section 4: start and middle kernel
    "ib": (None, 3),
    "convnext": (5, None),
    "extra_dw": (5, 3),
    "ffn": (None, None),
}


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("ib", ["expand", "middle", "project"]),
        ("convnext", ["start", "expand", "project"]),
        ("extra_dw", ["start", "expand", "middle", "project"]),
        ("ffn", ["expand", "project"]),
    ],
)
def test_the_kernels_choose_one_of_four_blocks(kind: str, layers: list[str]) -> None:
    block = UniversalInvertedBottleneck(16, 64, 16, *KINDS[kind])
    assert [name for name, _ in block.branch.named_children()] == [*layers, "drop_path"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "stride"), [(16, 1), (24, 1), (24, 2)])
def test_output_matches_timm(kind: str, outputs: int, stride: int) -> None:
    if kind == "ffn" and stride > 1:
        return
    start, middle = KINDS[kind]
    ours = UniversalInvertedBottleneck(16, 64, outputs, start, middle, stride)
    theirs = UniversalInvertedResidual(
        16,
        outputs,
        dw_kernel_size_start=start or 0,
        dw_kernel_size_mid=middle or 0,
        stride=stride,
        exp_ratio=4,
        layer_scale_init_value=None,
    ).eval()
    x = torch.randn(4, 16, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(ours, theirs)
    assert_close(ours(x), theirs(x))


def test_the_middle_kernel_alone_gives_the_block_of_mobilenet_v2() -> None:
    ours = UniversalInvertedBottleneck(16, 96, 16, None, 5)
    other = InvertedResidual(16, 96, 16, 5, act=nn.ReLU)
    x = torch.randn(4, 16, 9, 7)
    randomize_norms(ours, x)
    copy_in_order(ours, other.eval())
    assert_close(ours(x), other(x))


def test_the_second_depthwise_convolution_applies_the_stride_if_there_are_two() -> None:
    branch = UniversalInvertedBottleneck(16, 64, 24, 5, 3, stride=2).branch
    assert (branch.start.conv.stride, branch.middle.conv.stride) == ((1, 1), (2, 2))
    branch = UniversalInvertedBottleneck(16, 64, 24, 5, None, stride=2).branch
    assert branch.start.conv.stride == (2, 2)


def test_only_the_expanded_maps_are_activated() -> None:
    block = UniversalInvertedBottleneck(16, 64, 16, 5, 3)
    activated = [name for name, layer in block.branch.named_children() if hasattr(layer, "act")]
    assert activated == ["expand", "middle"]


def test_parameters_are_those_of_the_kernels_and_norms() -> None:
    depthwise = 25 * 16 + 9 * 64
    norms = 2 * (16 + 64 + 64 + 24)
    assert_parameters(
        UniversalInvertedBottleneck(16, 64, 24, 5, 3), depthwise + 16 * 64 + 64 * 24 + norms
    )


@pytest.mark.parametrize(
    ("outputs", "stride", "residual"), [(16, 1, True), (24, 1, False), (16, 2, False)]
)
def test_every_residual_block_has_drop_path(outputs: int, stride: int, residual: bool) -> None:
    block = UniversalInvertedBottleneck(16, 64, outputs, stride=stride, drop_path=0.5)
    assert any(isinstance(m, StochasticDepth) for m in block.modules()) == residual


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got 0"):
        UniversalInvertedBottleneck(0, 8, 8)
    with pytest.raises(ValueError, match="kernel_size must be an integer of at least 1, got 0"):
        UniversalInvertedBottleneck(8, 8, 8, 0)
    with pytest.raises(ValueError, match=r"drop_path must be in \[0, 1\), got 1"):
        UniversalInvertedBottleneck(8, 8, 8, drop_path=1)
    with pytest.raises(ValueError, match=r"stride must be 1 if .* are None, got 2"):
        UniversalInvertedBottleneck(8, 8, 8, None, None, 2)
