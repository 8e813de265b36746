"""The pre-activation blocks of He et al. (2016), Fig. 1b, and of Wide ResNet."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, relu

from cnnarch.blocks import PreActBottleneck, PreActResidual, PreActSum, ZeroPadShortcut
from cnnarch.testing import assert_close, assert_parameters
from tests.oracles.in_order import randomize_norms


def norm_act(norm: nn.Module, x: Tensor) -> Tensor:
    values = norm.running_mean, norm.running_var, norm.weight, norm.bias
    return relu(batch_norm(x, *values, eps=1e-5))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_residual_block_that_changes_the_shape_projects_the_activated_map(stride: int) -> None:
    block, x = PreActResidual(4, 6, stride), torch.randn(2, 4, 9, 8)
    randomize_norms(block, x)
    branch, a = block.branch, norm_act(block.norm, x)
    y = conv2d(a, branch.conv1.weight, stride=stride, padding=1)
    y = conv2d(norm_act(branch.norm, y), branch.conv2.weight, padding=1)
    assert_close(block(x), y + conv2d(a, block.shortcut.conv.weight, stride=stride))


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_a_bottleneck_has_norm_and_relu_before_each_convolution(stride_in_1x1: bool) -> None:
    block, x = PreActBottleneck(4, 3, 2, stride_in_1x1=stride_in_1x1), torch.randn(2, 4, 9, 8)
    randomize_norms(block, x)
    branch, a = block.branch, norm_act(block.norm, x)
    first, second = (2, 1) if stride_in_1x1 else (1, 2)
    y = conv2d(a, branch.reduce.weight, stride=first)
    y = conv2d(norm_act(branch.norm1, y), branch.conv.weight, stride=second, padding=1)
    y = conv2d(norm_act(branch.norm2, y), branch.expand.weight)
    assert_close(block(x), y + conv2d(a, block.shortcut.conv.weight, stride=2))


@pytest.mark.parametrize("block", [PreActResidual(8, 8), PreActBottleneck(8, 2)])
def test_nothing_acts_on_an_unchanged_input(block: PreActSum) -> None:
    """With F = 0 the block is the identity, also for negative values (eq. 3)."""
    for conv in (m for m in block.modules() if isinstance(m, nn.Conv2d)):
        nn.init.zeros_(conv.weight)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)
    block.activate_first = True
    assert torch.equal(block.eval()(x), norm_act(block.norm, x))


def test_with_zero_padding_a_block_has_only_two_convolutions_and_norms() -> None:
    block = PreActResidual(8, 16, 2, make_shortcut=ZeroPadShortcut)
    assert_parameters(block, 9 * (8 * 16 + 16 * 16) + 2 * (8 + 16))


def test_dropout_acts_between_the_convolutions_after_the_relu() -> None:
    branch = PreActResidual(4, 4, dropout=0.3).branch
    assert [*dict(branch.named_children())] == ["conv1", "norm", "act", "dropout", "conv2"]
    assert branch.dropout.p == 0.3


def test_any_module_can_be_the_branch() -> None:
    branch, x = nn.Conv2d(3, 3, 5, padding=2), torch.randn(1, 3, 6, 6)
    block = PreActSum(branch, 3, 3).eval()
    assert torch.equal(block(x), branch(norm_act(block.norm, x)) + x)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be an integer of at least 1, got 0"):
        PreActResidual(4, 0)
    with pytest.raises(ValueError, match="in_channels must be an integer of at least 1, got -2"):
        PreActBottleneck(-2, 4)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        PreActResidual(4, 4, dropout=1)


@pytest.mark.parametrize("make", [PreActResidual, PreActBottleneck])
def test_gradients_are_correct(make: type[PreActResidual | PreActBottleneck]) -> None:
    block = make(3, 2, 2).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))
