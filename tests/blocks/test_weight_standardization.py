"""Weight standardization (Qiao et al., 2019)."""

import pytest
import timm.layers
import torch
from torch import nn

from cnnarch.blocks import ConvNormAct, StandardizedConv2d
from cnnarch.inference import fuse
from cnnarch.testing import assert_close


def test_each_filter_has_mean_0_and_variance_1() -> None:
    weight = StandardizedConv2d(4, 6, 3, groups=2).standardized_weight()
    assert weight.shape == (6, 2, 3, 3)
    var, mean = torch.var_mean(weight, (1, 2, 3), correction=0)
    assert mean.tolist() == pytest.approx([0] * 6, abs=1e-6)
    assert var.tolist() == pytest.approx([1] * 6, abs=1e-5)


def test_it_equals_timms_layer_and_the_definition() -> None:
    settings = {"dilation": 2, "groups": 2, "bias": True, "eps": 1e-3}
    ours = StandardizedConv2d(4, 6, 3, 2, 1, **settings).double()
    theirs = timm.layers.StdConv2d(4, 6, 3, 2, 1, **settings).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    assert_close(ours(x), theirs(x), 1e-12)
    var, mean = torch.var_mean(ours.weight, (1, 2, 3), correction=0, keepdim=True)
    weight = (ours.weight - mean) / (var + 1e-3).sqrt()
    expected = nn.functional.conv2d(x, weight, ours.bias, 2, 1, 2, 2)
    assert_close(ours(x), expected, 1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_weights_in_half_precision_are_standardized_in_float32(dtype: torch.dtype) -> None:
    """Their variance, 1e-8, is below float16's smallest number."""
    conv = StandardizedConv2d(8, 4, 3, bias=False, eps=1e-12)
    nn.init.normal_(conv.weight, std=1e-4)
    conv.to(dtype)
    expected = conv.weight.double()
    expected = nn.functional.layer_norm(expected, (8, 3, 3), eps=1e-12)
    assert_close(conv.standardized_weight().double(), expected, 1e-2)


def test_fusing_keeps_the_settings_and_folds_a_norm_after_it() -> None:
    unit = ConvNormAct(4, 6, 3, 2, groups=2, conv=StandardizedConv2d).eval()
    nn.init.uniform_(unit.norm.running_var, 0.5, 2)
    unit.conv.dilation = (2, 2)
    fused = fuse(unit)
    assert type(fused.conv) is nn.Conv2d
    assert (fused.conv.dilation, fused.conv.groups) == ((2, 2), 2)
    assert isinstance(fused.norm, nn.Identity)
    x = torch.randn(2, 4, 9, 8)
    assert_close(fused(x), unit(x), 1e-5)
    alone = StandardizedConv2d(4, 6, 3)
    assert_close(fuse(alone)(x), alone(x), 1e-5)


def test_fusing_leaves_subclasses_unchanged() -> None:
    class Scaled(StandardizedConv2d):
        pass

    conv = Scaled(3, 3, 3)
    assert type(fuse(nn.Sequential(conv))[0]) is Scaled


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="eps must be a number above 0, got 0"):
        StandardizedConv2d(3, 4, 3, eps=0)


def test_gradients_are_correct() -> None:
    conv = StandardizedConv2d(2, 3, 3).double()
    x = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(conv, (x,))

    def of_weight(weight: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(of_weight, (conv.weight,))
