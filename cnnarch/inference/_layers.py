"""Layers of PyTorch that are linear in eval mode: recognize them, read and set their weights."""

import sys
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FORWARDS = {kind.forward for kind in (*_CONVS, nn.Linear, _BatchNorm, nn.SyncBatchNorm)}
_CONV_FORWARDS = {kind._conv_forward for kind in _CONVS}


def is_standard_layer(module: nn.Module) -> bool:
    """Return whether a module computes exactly PyTorch's convolution, linear layer or BatchNorm."""
    frozen_norm = sys.modules.get("torchvision.ops.misc")  # None if not imported
    forwards = _FORWARDS | ({frozen_norm.FrozenBatchNorm2d.forward} if frozen_norm else set())
    known = type(module).forward in forwards or _declares_batch_norm(module)
    if "forward" in vars(module) or not known:
        return False
    if isinstance(module, _ConvNd) and type(module)._conv_forward not in _CONV_FORWARDS:
        return False
    return not parametrize.is_parametrized(module)


def _declares_batch_norm(module: nn.Module) -> bool:
    """Return whether the class that defines `forward` declares that it computes BatchNorm.

    A subclass that overrides `forward` must declare it again.
    """
    definer = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return vars(definer).get("computes_batch_norm") is True


def is_identity(module: nn.Module) -> bool:
    """Return whether a module returns its input unchanged."""
    return type(module) is nn.Identity or (isinstance(module, _DropoutNd) and not module.training)


def has_fixed_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Return whether a standard layer is a BatchNorm that uses running statistics."""
    return not module.training and isinstance(getattr(module, "running_mean", None), Tensor)


def scale_and_shift(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return BatchNorm in eval mode as y = scale * x + shift for each channel, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = in_float64(norm.running_mean), in_float64(norm.running_var)
    weight = torch.ones_like(mean) if norm.weight is None else in_float64(norm.weight)
    bias = torch.zeros_like(mean) if norm.bias is None else in_float64(norm.bias)
    scale = weight / torch.sqrt(variance + norm.eps)
    return scale, bias - scale * mean


def in_float64(tensor: Tensor) -> Tensor:
    """Convert to float64, on the CPU if the device (MPS) does not support it."""
    device = "cpu" if tensor.device.type == "mps" else tensor.device
    return tensor.detach().to(device, torch.float64)


def weight_and_bias(layer: _ConvNd | nn.Linear) -> tuple[Tensor, Tensor]:
    weight = in_float64(layer.weight)
    bias = weight.new_zeros(len(weight)) if layer.bias is None else in_float64(layer.bias)
    return weight, bias


def set_parameters(layer: _ConvNd | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set weight and bias, keeping the layer's dtype, device and memory format."""
    old = layer.weight
    layer.weight = nn.Parameter(torch.empty_like(old).copy_(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(old.device, old.dtype), requires_grad=False)
