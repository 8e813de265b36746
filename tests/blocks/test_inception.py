"""The Inception block and the auxiliary head against their paper (Szegedy et al., 2014)."""

import math

import pytest
import torch
from torch import Tensor, nn

from cnnarch.blocks import AuxiliaryHead, ClassifierHead, Inception
from cnnarch.testing import assert_close, assert_parameters

conv2d = nn.functional.conv2d


def relu_conv(x: Tensor, layer: nn.Module, padding: int = 0) -> Tensor:
    return conv2d(x, layer.conv.weight, layer.conv.bias, padding=padding).clamp(min=0)


def test_the_output_matches_manually_computed_branches() -> None:
    """The order is 1x1, 3x3, 5x5, pool; a ReLU follows every convolution, including reductions."""
    block = Inception(6, 2, (3, 4), (2, 5), 3)
    x = torch.randn(2, 6, 9, 7)
    three = relu_conv(relu_conv(x, block.branch3x3.reduce), block.branch3x3.conv, 1)
    five = relu_conv(relu_conv(x, block.branch5x5.reduce), block.branch5x5.conv, 2)
    pooled = nn.functional.max_pool2d(x, 3, 1, 1)
    expected = [relu_conv(x, block.branch1x1), three, five]
    expected.append(relu_conv(pooled, block.branch_pool.conv))
    assert_close(block(x), torch.cat(expected, 1))


def test_the_parameter_count_of_inception_3a_follows_from_its_widths() -> None:
    """Weights and biases of row 3a in Table 1, where "159K" counts weights in units of 1,024."""
    block = Inception(192, 64, (96, 128), (16, 32), 32)
    weights = 192 * (64 + 96 + 16 + 32) + 9 * 96 * 128 + 25 * 16 * 32
    assert weights == 163_328
    assert_parameters(block, weights + 64 + 96 + 128 + 16 + 32 + 32)
    assert block.out_channels == 256


def test_the_5x5_branch_has_a_5x5_kernel() -> None:
    block = Inception(8, 2, (2, 2), (2, 2), 2)
    assert block.branch5x5.conv.conv.kernel_size == (5, 5)
    assert block.branch5x5.conv.conv.padding == (2, 2)
    other = Inception(8, 2, (2, 2), (2, 2), 2, kernel_size5=3)
    assert other.branch5x5.conv.conv.kernel_size == (3, 3)
    assert other(torch.randn(1, 8, 5, 6)).shape == (1, 8, 5, 6)


def test_a_norm_replaces_the_biases() -> None:
    block = Inception(8, 2, (2, 2), (2, 2), 2, norm=nn.BatchNorm2d)
    convs = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convs) == len(norms) == 6
    assert all(c.bias is None for c in convs)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_weights_use_he_initialization_for_the_forward_pass(norm: type[nn.Module] | None) -> None:
    """Weights are from N(0, 2 / fan_in) and biases are 0: eq. 10 of He et al., 2015."""
    block = Inception(192, 64, (96, 128), (16, 32), 32, norm=norm)
    for layer, fan_in in ((block.branch3x3.conv, 9 * 96), (block.branch5x5.reduce, 192)):
        std = layer.conv.weight.std().item()
        assert std == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)
        assert norm or layer.conv.bias.abs().max() == 0


def test_every_branch_receives_a_gradient() -> None:
    block = Inception(8, 2, (2, 2), (2, 2), 2)
    block(torch.randn(2, 8, 6, 6)).sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_widths_below_one_are_rejected() -> None:
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        Inception(8, 2, (0, 2), (2, 2), 2)


def test_the_auxiliary_head_pools_5x5_with_stride_3() -> None:
    """Window i starts at row 3i of a 14x14 map, unlike the 4x4 bins of an adaptive pool."""
    head = AuxiliaryHead(512, 1000)
    x = torch.randn(1, 512, 14, 14)
    rows = [x[:, :, 3 * i : 3 * i + 5] for i in range(4)]
    windows = [[row[..., 3 * j : 3 * j + 5].mean((2, 3)) for j in range(4)] for row in rows]
    expected = torch.stack([torch.stack(row, -1) for row in windows], -2)
    assert_close(head.pool.average(x), expected)


@pytest.mark.parametrize(("in_channels", "params"), [(512, 3_188_840), (528, 3_190_888)])
def test_the_parameter_count_of_the_auxiliary_head_matches_sec_5(
    in_channels: int, params: int
) -> None:
    assert params == (in_channels + 1) * 128 + (2048 + 1) * 1024 + (1024 + 1) * 1000
    assert_parameters(AuxiliaryHead(in_channels, 1000), params)


def test_the_auxiliary_head_drops_70_percent_of_1024_units_in_training_only() -> None:
    head = AuxiliaryHead(16, 5)
    x = torch.rand(4, 16, 14, 14)
    assert head.dropout.p == 0.7
    assert head.num_features == 1024
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))
    hidden = head.hidden(head.flatten(head.pool(x)))
    assert hidden.min() == 0  # the last operation is a ReLU
    assert torch.equal(head.pre_logits(x), hidden)
    assert_close(head(x), head.classifier(hidden))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 7), (20, 13)])
def test_the_auxiliary_head_accepts_maps_of_any_size(size: tuple[int, int]) -> None:
    head = AuxiliaryHead(4, 3).eval()
    logits = head(torch.ones(1, 4, *size))
    # A constant map has the same averages at every size.
    assert_close(logits, head(torch.ones(1, 4, 14, 14)))


def test_the_auxiliary_head_is_a_classifier_head() -> None:
    head = AuxiliaryHead(4, 3)
    assert isinstance(head, ClassifierHead)
    head.reset_classifier(7)
    assert head(torch.ones(1, 4, 14, 14)).shape == (1, 7)
    head.reset_classifier(0)
    assert head(torch.ones(1, 4, 14, 14)).shape == (1, 1024)
