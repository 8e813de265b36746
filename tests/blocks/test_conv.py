"""ConvNormAct and TensorFlow's padding."""

import pytest
import timm.layers
import torch
from torch import nn

from cnnarch.blocks import ConvNormAct, Padding, SamePad2d
from cnnarch.testing import assert_close


def test_the_order_is_convolution_then_norm_then_activation() -> None:
    block = ConvNormAct(3, 4, 3)
    assert [name for name, _ in block.named_children()] == ["conv", "norm", "act"]
    x = torch.randn(2, 3, 5, 5)
    expected = nn.BatchNorm2d(4)(nn.functional.conv2d(x, block.conv.weight, padding=1)).relu()
    assert_close(block(x), expected)


def test_a_norm_replaces_the_bias() -> None:
    assert ConvNormAct(3, 4, 3).conv.bias is None
    assert ConvNormAct(3, 4, 3, norm=None).conv.bias is not None
    assert ConvNormAct(3, 4, 3, bias=True).conv.bias is not None
    assert ConvNormAct(3, 4, 3, norm=None, bias=False).conv.bias is None


def test_omitted_parts_are_absent() -> None:
    assert [n for n, _ in ConvNormAct(3, 4, 1, act=None).named_children()] == ["conv", "norm"]
    assert [n for n, _ in ConvNormAct(3, 4, 1, norm=None).named_children()] == ["conv", "act"]


@pytest.mark.parametrize(("kernel_size", "pixels"), [(1, 0), (3, 1), (5, 2), (7, 3)])
def test_symmetric_padding_keeps_the_size_at_stride_1(kernel_size: int, pixels: int) -> None:
    block = ConvNormAct(2, 2, kernel_size)
    assert block.conv.padding == (pixels, pixels)
    assert block(torch.randn(1, 2, 9, 8)).shape == (1, 2, 9, 8)


def test_integer_padding_adds_that_many_pixels() -> None:
    assert ConvNormAct(2, 2, 5, padding=0)(torch.randn(1, 2, 9, 8)).shape == (1, 2, 5, 4)


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_dilated_kernel_reads_distant_pixels_and_keeps_the_rounded_size(
    padding: Padding, stride: int
) -> None:
    layer = ConvNormAct(1, 1, 3, stride, dilation=2, padding=padding, norm=None, act=None)
    nn.init.ones_(layer.conv.weight)
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1
    y = layer(x)[0, 0]
    assert y.shape == (-(-9 // stride), -(-9 // stride))
    rows = [row * stride for row in y.any(1).nonzero().flatten().tolist()]
    assert rows == [2, 4, 6]


def test_groups_are_convolved_separately() -> None:
    block = ConvNormAct(4, 4, 3, groups=2, norm=None, act=None)
    assert block.conv.weight.shape == (4, 2, 3, 3)
    x = torch.randn(1, 4, 5, 5)
    changed = x.clone()
    changed[:, 2:] += 1
    assert torch.equal(block(x)[:, :2], block(changed)[:, :2])
    assert not torch.equal(block(x)[:, 2:], block(changed)[:, 2:])


def test_weights_use_he_initialization_with_the_fan_out_of_one_group() -> None:
    for groups in (1, 8):
        conv = ConvNormAct(128, 256, 3, groups=groups).conv
        fan_out = 9 * 256 // groups
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "before", "after"),
    [
        # The total is (ceil(size / stride) - 1) * stride + kernel - size; an odd pixel goes last.
        (4, 3, 2, 0, 1),
        (5, 3, 2, 1, 1),
        (224, 3, 2, 0, 1),
        (224, 5, 2, 1, 2),
        (7, 5, 2, 2, 2),
        (5, 1, 2, 0, 0),
        (6, 3, 3, 0, 0),
        (6, 2, 1, 0, 1),
        (2, 3, 4, 0, 1),
    ],
)
def test_same_padding_matches_tensorflow(
    size: int, kernel_size: int, stride: int, before: int, after: int
) -> None:
    padded = SamePad2d(kernel_size, stride)(torch.ones(1, 1, size, size))
    expected = torch.zeros(before + size + after, before + size + after)
    expected[before : before + size, before : before + size] = 1
    assert torch.equal(padded[0, 0], expected)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_with_same_padding_matches_timm_and_rounds_sizes_up(
    kernel_size: int, stride: int
) -> None:
    ours = ConvNormAct(2, 3, kernel_size, stride, padding="same", norm=None, act=None)
    theirs = timm.layers.Conv2dSame(2, 3, kernel_size, stride)
    theirs.load_state_dict(ours.conv.state_dict())
    for height, width in ((8, 7), (9, 12), (5, 6)):
        x = torch.randn(1, 2, height, width)
        assert_close(ours(x), theirs(x))
        assert ours(x).shape[-2:] == (-(-height // stride), -(-width // stride))


def test_same_padding_with_an_odd_kernel_and_stride_1_needs_no_module() -> None:
    assert not hasattr(ConvNormAct(2, 2, 3, padding="same"), "pad")
    assert hasattr(ConvNormAct(2, 2, 3, 2, padding="same"), "pad")


def test_same_padding_exports_with_dynamic_sizes() -> None:
    block = ConvNormAct(1, 2, 3, 2, padding="same").eval()
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(block, (torch.randn(1, 1, 8, 8),), dynamic_shapes=(sides,))
    for size in ((8, 8), (9, 8), (11, 21)):
        x = torch.randn(1, 1, *size)
        with torch.no_grad():
            assert torch.equal(program.module()(x), block(x))


def test_a_trace_with_same_padding_works_at_every_size() -> None:
    block = ConvNormAct(1, 2, 3, 2, padding="same").eval()
    graph = torch.fx.symbolic_trace(block)
    for size in ((8, 8), (9, 12)):
        x = torch.randn(1, 1, *size)
        assert torch.equal(graph(x), block(x))


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got 0"):
        ConvNormAct(0, 4, 3)
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got -1"):
        ConvNormAct(3, -1, 3)
    with pytest.raises(ValueError, match="padding must be one of 'symmetric', 'same', got 'SAME'"):
        ConvNormAct(3, 4, 3, padding="SAME")  # type: ignore[arg-type]
