"""Merge the branches of a convolution into one convolution that computes the same.

Source: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", arXiv 2101.03697, sec. 3.3.
"""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from cnnarch.blocks.reparameterization import RepConv
from cnnarch.inference._layers import (
    has_fixed_statistics,
    in_float64,
    is_identity,
    is_standard_layer,
    scale_and_shift,
    set_parameters,
    weight_and_bias,
)

Module = TypeVar("Module", bound=nn.Module)


def merge_all_branches(model: Module) -> Module:
    """Replace each `RepConv` by one convolution, in place, and return the model.

    A `RepConv` whose layers were replaced stays as it is if no convolution computes the same, for
    example after `convert_norm(model, "group")`. If the model itself is a `RepConv`, the
    convolution is returned.

    Args:
        model: any module in eval mode.
    """
    merged: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module not in merged and isinstance(module, RepConv) and _can_be_merged(module):
            merged[module] = merge_branches(module)
        if name and module in merged:
            model.set_submodule(name, merged[module])
    return merged.get(model, model)  # type: ignore[return-value]


def merge_branches(branched: RepConv) -> nn.Conv2d:
    r"""Return one convolution that computes the sum of the branches in eval mode.

    Each branch is a convolution with a bias, $W * x + t$:

    - In eval mode, BatchNorm multiplies channel $o$ by a constant $s_o$ and adds a constant $t_o$,
      so $\mathrm{BN}(W * x) = (s \, W) * x + t$.
    - The identity is the 1x1 convolution with the identity matrix, $x = I * x$.
    - A 1x1 kernel is a larger kernel that is zero except at its center.

    A convolution is linear in its kernel, so the kernels and the biases of the branches add up:
    $\sum_i (W_i * x + t_i) = (\sum_i W_i) * x + \sum_i t_i$. The sums are computed in float64.
    """
    merged = copy.deepcopy(_largest(branched))
    kernel = bias = in_float64(merged.weight).new_zeros(())
    for branch in branched.children():
        weight, shift = weight_and_shift(branch, merged)
        rows, columns = (
            (large - small) // 2
            for large, small in zip(merged.kernel_size, weight.shape[2:], strict=True)
        )
        kernel = kernel + pad(weight, (columns, columns, rows, rows))
        bias = bias + shift
    set_parameters(merged, kernel, bias)
    return merged


def weight_and_shift(branch: nn.Module, conv: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return the kernel and the bias of the convolution that a branch computes, in float64.

    Args:
        branch: a convolution and its norm, or a norm alone.
        conv: a convolution with the same channels and groups.
    """
    first, *norms = _layers_of(branch)
    if isinstance(first, nn.Conv2d):
        weight, shift = weight_and_bias(first)
    else:
        norms = [first, *norms]
        like, channels = in_float64(conv.weight), conv.in_channels // conv.groups
        unit = torch.eye(channels, dtype=like.dtype, device=like.device)
        weight = unit.repeat(conv.groups, 1).view(-1, channels, 1, 1)
        shift = like.new_zeros(conv.in_channels)
    for norm in norms:
        assert has_fixed_statistics(norm)
        scale, offset = scale_and_shift(norm)
        weight, shift = weight * scale.view(-1, 1, 1, 1), shift * scale + offset
    return weight, shift


def _layers_of(branch: nn.Module) -> list[nn.Module]:
    is_sequence = type(branch).forward is nn.Sequential.forward
    return [m for m in (branch.children() if is_sequence else (branch,)) if not is_identity(m)]


def _convolutions(branched: RepConv) -> list[nn.Conv2d]:
    layers = [layer for branch in branched.children() for layer in _layers_of(branch)]
    return [layer for layer in layers if isinstance(layer, nn.Conv2d)]


def _largest(branched: RepConv) -> nn.Conv2d:
    return max(_convolutions(branched), key=lambda conv: conv.kernel_size)


def _can_be_merged(branched: RepConv) -> bool:
    """Return whether each branch is a centered convolution, a norm with fixed statistics or both.

    Layers may have been replaced, and `dilate` changes the strides and dilations of all branches.
    """
    if type(branched).forward is not RepConv.forward or not _convolutions(branched):
        return False
    largest = _largest(branched)
    for branch in branched.children():
        layers = _layers_of(branch)
        if not layers or not all(map(is_standard_layer, layers)):
            return False
        if isinstance(layers[0], nn.Conv2d):
            if not _has_same_grid(layers.pop(0), largest):
                return False
        elif largest.in_channels != largest.out_channels or largest.stride != (1, 1):
            return False
        if not all(map(has_fixed_statistics, layers)):
            return False
    return True


def _has_same_grid(conv: nn.Module, largest: nn.Conv2d) -> bool:
    """Return whether a kernel computes the same after padding with zeros to the largest size."""
    assert isinstance(conv, nn.Conv2d)
    if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
        return False
    same = (conv.stride, conv.groups) == (largest.stride, largest.groups)
    for size, dilation, padding, largest_size, other in zip(
        conv.kernel_size,
        conv.dilation,
        conv.padding,
        largest.kernel_size,
        largest.dilation,
        strict=True,
    ):
        same &= padding == dilation * (size - 1) / 2 and size % 2 == 1 and size <= largest_size
        same &= size == 1 or dilation == other
    return same
