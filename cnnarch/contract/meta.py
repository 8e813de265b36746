"""Data-free copies of a network for computing the shapes of its maps."""

import copy
from collections import OrderedDict
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

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

    Hooks and replaced `forward` methods of modules are not copied. Layers that preserve the shape
    return their input.
    """
    # deepcopy takes the tensors from the memo, so the weights are never copied.
    memo: dict[int, Any] = without_hooks(model)
    memo |= {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        tensor = parameter.detach().to("meta")
        memo[id(parameter)] = nn.Parameter(tensor, parameter.requires_grad)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        if has_replaced_forward(module):
            del module.forward
        if type(module) in SHAPE_PRESERVING:
            vars(module)["forward"] = partial(_unchanged, getattr(module, "num_features", None))
    return copied.eval().float()  # callers pass float32 images


def _unchanged(channels: int | None, x: Tensor) -> Tensor:
    if channels not in (None, x.shape[1]):
        raise RuntimeError(f"BatchNorm2d with {channels} channels got input shape {tuple(x.shape)}")
    return x


def has_replaced_forward(module: nn.Module) -> bool:
    """Return whether an instance attribute replaces the `forward` method of the module's class."""
    return "forward" in vars(module) and type(module).forward is not nn.Module.forward


def without_hooks(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy` that omits the hooks of all modules."""
    # deepcopy uses the objects in its memo instead of making copies.
    return {id(vars(m)[table]): OrderedDict() for m in model.modules() for table in HOOK_TABLES}
