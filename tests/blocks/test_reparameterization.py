"""Convolutions in branches against timm's blocks, arithmetic and the merged convolution."""

from functools import partial

import pytest
import torch
from timm.models.byobnet import MobileOneBlock, RepVggBlock
from torch import Tensor, nn

from cnnarch.blocks import SE, RepConv, RepConvAct
from cnnarch.finetuning import convert_norm
from cnnarch.inference import fuse
from cnnarch.testing import assert_close, assert_macs, assert_parameters
from tests.oracles.in_order import copy_in_order, randomize_norms


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_children()]


def test_branches_are_a_convolution_a_1x1_convolution_and_the_input() -> None:
    assert names(RepConv(8, 8)) == ["conv1", "pointwise", "identity"]
    assert names(RepConv(8, 8, branches=3)) == [
        *("conv1", "conv2", "conv3", "pointwise", "identity")
    ]


@pytest.mark.parametrize("shape", [(8, 16), (8, 8, 3, 2)])
def test_the_input_is_added_only_if_the_shape_is_unchanged(shape: tuple[int, ...]) -> None:
    assert names(RepConv(*shape)) == ["conv1", "pointwise"]
    assert names(RepConv(8, 8, identity=False)) == ["conv1", "pointwise"]
    with pytest.raises(ValueError, match="identity must be False or None if the shape changes"):
        RepConv(*shape, identity=True)


def test_1x1_convolutions_have_no_other_1x1_branch() -> None:
    assert names(RepConv(8, 8, 1, branches=2)) == ["conv1", "conv2", "identity"]


def test_the_cost_is_that_of_all_branches_and_then_of_one() -> None:
    """Each norm has 2 * 16 parameters. The merged convolution has a bias instead."""
    conv = RepConv(16, 16, groups=2)
    assert_parameters(conv, 16 * 8 * 9 + 16 * 8 + 3 * 2 * 16)
    assert_macs(conv, (16 * 8 * 9 + 16 * 8) * 7 * 7, (16, 7, 7))
    merged = fuse(nn.Sequential(conv))
    assert sum(p.numel() for p in merged.parameters()) == 16 * 8 * 9 + 16
    assert_macs(merged, 16 * 8 * 9 * 7 * 7, (16, 7, 7))


@pytest.mark.parametrize(
    ("inputs", "outputs", "stride", "groups"), [(8, 8, 1, 1), (8, 12, 2, 4), (8, 8, 2, 1)]
)
def test_output_matches_timms_repvgg_block(
    inputs: int, outputs: int, stride: int, groups: int
) -> None:
    ours = RepConvAct(inputs, outputs, 3, stride, groups=groups)
    group_size = inputs // groups if groups > 1 else 0
    theirs = RepVggBlock(inputs, outputs, 3, stride, group_size=group_size).eval()
    assert_same(ours, theirs, inputs)


@pytest.mark.parametrize(
    ("outputs", "kernel_size", "stride", "groups"), [(8, 3, 1, 8), (8, 3, 2, 8), (12, 1, 1, 1)]
)
def test_output_matches_timms_mobileone_block(
    outputs: int, kernel_size: int, stride: int, groups: int
) -> None:
    shape, group_size = (8, outputs, kernel_size, stride), 8 // groups if groups > 1 else 0
    ours = RepConvAct(*shape, groups=groups, branches=3)
    theirs = MobileOneBlock(*shape, group_size=group_size, num_conv_branches=3).eval()
    assert_same(ours, theirs, 8)


def assert_same(ours: RepConvAct, theirs: nn.Module, channels: int) -> None:
    x = torch.randn(4, channels, 15, 18)
    randomize_norms(ours, x)
    copy_in_order(reordered(ours), theirs)
    assert_close(ours(x), theirs(x))


def reordered(block: RepConvAct) -> nn.Module:
    """Return the block's layers in timm's order, which starts with the input's norm."""
    conv = block.conv
    branches = dict(conv.named_children())
    return nn.ModuleList(branches[name] for name in sorted(branches, key=order_in_timm))


def order_in_timm(name: str) -> tuple[int, str]:
    return {"identity": 0, "conv": 1, "pointwise": 2}[name.rstrip("0123456789")], name


def trained(conv: nn.Module, channels: int = 8) -> nn.Module:
    """Randomize the norms and convert to float64, so that only wrong algebra causes differences."""
    conv = nn.Sequential(conv)
    randomize_norms(conv, torch.randn(4, channels, 9, 9))
    return conv.double()


def difference(model: nn.Module, x: Tensor) -> float:
    expected, merged = model(x), fuse(model)
    assert isinstance(merged[0], nn.Conv2d)
    return ((merged(x) - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    "make",
    [
        partial(RepConv, 8, 8),
        partial(RepConv, 8, 8, groups=4),
        partial(RepConv, 8, 8, groups=8, branches=4),
        partial(RepConv, 8, 12, 3, 2, groups=2),
        partial(RepConv, 8, 8, 1, branches=3),
        partial(RepConv, 8, 8, 5),
        partial(RepConv, 8, 8, norm=partial(nn.BatchNorm2d, eps=0.1)),
    ],
)
@torch.no_grad()
def test_one_convolution_computes_the_same(make: partial[RepConv]) -> None:
    """At the borders too: each branch adds its bias everywhere, and pads its input with zeros."""
    assert difference(trained(make()), torch.randn(2, 8, 7, 10).double()) < 1e-14


@torch.no_grad()
def test_a_dilated_kernel_is_merged_at_its_center() -> None:
    model = trained(RepConv(8, 8))
    for conv in (model[0].conv1.conv, model[0].pointwise.conv):
        conv.dilation = (3, 3)
    model[0].conv1.conv.padding = (3, 3)
    assert difference(model, torch.randn(2, 8, 11, 11).double()) < 1e-14
    assert fuse(model)[0].dilation == (3, 3)


@torch.no_grad()
def test_frozen_norms_are_merged() -> None:
    model = convert_norm(trained(RepConv(8, 8)), "frozen")
    assert difference(model, torch.randn(2, 8, 7, 7).double()) < 1e-14


def group_norms(conv: RepConv) -> None:
    convert_norm(conv, "group")


def reflected(conv: RepConv) -> None:
    conv.conv1.conv.padding_mode = "reflect"
    conv.conv1.conv._reversed_padding_repeated_twice = [1, 1, 1, 1]


def padded_by_name(conv: RepConv) -> None:
    conv.conv1.conv.padding = "same"


def other_layer(conv: RepConv) -> None:
    conv.pointwise.norm = nn.ReLU()


def statistics_of_the_batch(conv: RepConv) -> None:
    conv.identity = nn.BatchNorm2d(8, track_running_stats=False)


def wider_kernel(conv: RepConv) -> None:
    """No kernel of the branches is as high as the others and as wide."""
    conv.conv2 = nn.Conv2d(8, 8, (1, 5), padding=(0, 2))


@pytest.mark.parametrize(
    "change",
    [group_norms, reflected, padded_by_name, other_layer, statistics_of_the_batch, wider_kernel],
)
@torch.no_grad()
def test_branches_that_no_convolution_computes_are_left(change: object) -> None:
    conv, x = RepConv(8, 8), torch.randn(2, 8, 7, 7).double()
    randomize_norms(conv, x.float())
    change(conv)  # type: ignore[operator]
    model = nn.Sequential(conv).eval().double()
    fused = fuse(model)
    assert isinstance(fused[0], RepConv)
    assert_close(fused(x), model(x), 1e-12)


@torch.no_grad()
def test_a_convolution_with_branches_becomes_a_convolution() -> None:
    conv, x = RepConv(8, 8), torch.randn(2, 8, 7, 7)
    randomize_norms(conv, x)
    merged = fuse(conv)
    assert isinstance(merged, nn.Conv2d)
    assert_close(merged(x), conv(x))


def test_the_dtype_and_the_memory_format_are_kept() -> None:
    conv = RepConv(8, 8).to(torch.bfloat16, memory_format=torch.channels_last)
    merged = fuse(nn.Sequential(conv))[0]
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert merged.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_convolution_that_is_used_twice_is_merged_once() -> None:
    conv = RepConv(8, 8)
    fused = fuse(nn.Sequential(conv, conv))
    assert fused[0] is fused[1]
    assert isinstance(fused[0], nn.Conv2d)


def test_the_form_for_inference_has_the_names_and_shapes_of_the_merged_one() -> None:
    options = {"groups": 2, "attention": partial(SE, squeeze_channels=2)}
    merged = fuse(RepConvAct(8, 8, stride=2, **options)).state_dict()
    built = RepConvAct(8, 8, stride=2, deploy=True, **options)
    assert {k: v.shape for k, v in merged.items()} == {
        k: v.shape for k, v in built.state_dict().items()
    }
    assert built.conv.stride == (2, 2)


def test_attention_comes_before_the_activation() -> None:
    block = RepConvAct(8, 8, attention=partial(SE, squeeze_channels=2), act=nn.SiLU)
    assert names(block) == ["conv", "attention", "act"]
    assert isinstance(block.act, nn.SiLU)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="branches must be an integer of at least 1, got 0"):
        RepConv(8, 8, branches=0)
    for block in (RepConv, partial(RepConvAct, deploy=True)):
        with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
            block(8, 8, 4)
        with pytest.raises(ValueError, match="kernel_size must be an integer of at least 1, got 0"):
            block(8, 8, 0)
