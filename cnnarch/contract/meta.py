"""Data-free copies of a network for computing the shapes of its maps."""

import copy
from collections import OrderedDict
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cnnarch.blocks._settings import settings_of
from cnnarch.blocks._wrappers import content, unwrapped
from cnnarch.blocks.frozen_norm import FrozenBatchNorm

Module = TypeVar("Module", bound=nn.Module)

HOOK_TABLES = tuple(
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, OrderedDict) and "state_dict" not in name
)
"""Attributes in which a module stores its forward and backward hooks."""
SHAPE_PRESERVING = {nn.BatchNorm2d, FrozenBatchNorm, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU}
"""Layers that preserve the shape and take up most of the time on the meta device.

Subclasses are excluded because they may change the shape.
"""


def without_memory(model: Module) -> Module:
    """Return a copy in eval mode on the meta device, which computes only shapes.

    Hooks, replaced `forward` methods of modules, and wrappers such as torch.compile are not copied.
    Layers that preserve the shape return their input.
    """
    model = unwrapped(model)
    # deepcopy takes the tensors from the memo, so the weights are never copied.
    memo: dict[int, Any] = without_hooks(model)
    memo |= {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        tensor = parameter.detach().to("meta")
        memo[id(parameter)] = nn.Parameter(tensor, parameter.requires_grad)
    for tensor in _computed_tensors(model):
        dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
        memo[id(tensor)] = tensor.detach().to("meta", dtype)
    copied = copy_without_wrappers(model, memo)
    for module in copied.modules():
        if has_replaced_forward(module):
            del module.forward
        if type(module) in SHAPE_PRESERVING:
            vars(module)["forward"] = partial(_unchanged, getattr(module, "num_features", None))
    return copied.eval().float()  # callers pass float32 images


def copy_without_wrappers(model: Module, memo: dict[int, Any]) -> Module:
    """Return a deep copy in which compiled and other wrapped layers are no longer wrapped."""
    for module in reversed(list(model.modules())):  # inner wrappers first
        if content(module) is not None:
            memo[id(module)] = copy.deepcopy(unwrapped(module), memo)
    return copy.deepcopy(model, memo)


def _computed_tensors(model: nn.Module) -> list[Tensor]:
    """Return attributes such as the weights that pruning computes, which cannot be copied."""
    values = (value for module in model.modules() for value in vars(module).values())
    return [value for value in values if isinstance(value, Tensor)]


def _unchanged(channels: int | None, x: Tensor) -> Tensor:
    if channels not in (None, x.shape[1]):
        raise RuntimeError(f"BatchNorm2d with {channels} channels got input shape {tuple(x.shape)}")
    return x


class Remembered:
    """A value that is valid for certain layers; copies and pickles of a network drop it."""

    def __init__(self, layers: object = None, value: Any = None) -> None:
        self.layers = layers
        self.value = value

    def __reduce__(self) -> tuple[type["Remembered"], tuple[()]]:
        return Remembered, ()


def describe_layers(*parts: nn.Module) -> list[Any]:
    """Return the classes, settings and parameter shapes of all layers, to detect changes."""
    return [
        (path, settings_of(module), _shapes(module))
        for part in parts
        for path, module in part.named_modules()
    ]


def _shapes(module: nn.Module) -> dict[str, Any]:
    return {name: p.shape for name, p in module._parameters.items() if p is not None}


def has_replaced_forward(module: nn.Module) -> bool:
    """Return whether an instance attribute replaces the `forward` method of the module's class."""
    return "forward" in vars(module) and type(module).forward is not nn.Module.forward


def without_hooks(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy` that omits the hooks of all modules."""
    # deepcopy uses the objects in its memo instead of making copies.
    return {id(vars(m)[table]): OrderedDict() for m in model.modules() for table in HOOK_TABLES}
