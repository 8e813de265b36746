"""The Xception module against Fig. 5 of the paper, with a functional reimplementation."""

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm, conv2d, max_pool2d

from cnnarch import set_inplace
from cnnarch.blocks import SeparableConv, XceptionModule
from cnnarch.testing import assert_close
from tests.oracles.in_order import randomize_norms


def normalized(x: torch.Tensor, norm: nn.BatchNorm2d) -> torch.Tensor:
    return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=1e-5)


def separable(x: torch.Tensor, layer: SeparableConv) -> torch.Tensor:
    x = conv2d(x, layer.depthwise.weight, padding=1, groups=x.shape[1])
    return normalized(conv2d(x, layer.pointwise.weight), layer.norm)


@pytest.mark.parametrize("leading_act", [True, False])
def test_a_strided_module_ends_with_its_pool(leading_act: bool) -> None:
    module = XceptionModule(4, (6, 8), 2, leading_act=leading_act)
    x = torch.randn(2, 4, 9, 8)
    randomize_norms(module, x)
    y = separable(x.relu() if leading_act else x, module.branch.conv1)
    y = max_pool2d(separable(y.relu(), module.branch.conv2), 3, 2, 1)
    shortcut = conv2d(x, module.shortcut.conv.weight, stride=2)
    with torch.no_grad():
        assert_close(module(x), y + normalized(shortcut, module.shortcut.norm))


def test_a_module_of_the_middle_flow_adds_its_input() -> None:
    module = XceptionModule(4, (4, 4, 4))
    x = torch.randn(2, 4, 5, 6)
    randomize_norms(module, x)
    y = x
    for layer in (module.branch.conv1, module.branch.conv2, module.branch.conv3):
        y = separable(y.relu(), layer)
    with torch.no_grad():
        assert_close(module(x), y + x)


def test_in_place_activations_do_not_change_the_shortcut() -> None:
    module = XceptionModule(4, (4, 4)).eval()
    x = torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        before, copy = module(x), x.clone()
        set_inplace(module)
        assert_close(module(x), before)
    assert torch.equal(x, copy)


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="widths must list at least one convolution, got none"):
        XceptionModule(4, ())
    with pytest.raises(ValueError, match="out_channels must be an integer of at least 1, got 0"):
        SeparableConv(4, 0)
