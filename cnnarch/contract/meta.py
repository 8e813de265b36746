"""A network without its values, to see shapes flow through it."""

import copy
from collections import OrderedDict
from functools import partial
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ["has_replaced_forward", "without_hooks", "without_memory"]

Module = TypeVar("Module", bound=nn.Module)

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_KEEP_THE_SHAPE = {nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU}
"""Layers that take longer on the meta device than all others together, and change no shape.

Exactly these: a class derived from one of them may do anything.
"""


def without_memory(model: Module) -> Module:
    """A copy on the meta device, in eval mode: shapes flow through it, values do not.

    Hooks are not copied, nor is a `forward` that replaces the one of the module's class: they are
    the user's, and shapes alone are asked for here. Layers that keep the shape pass images on.
    """
    # Tensors are swapped while copying, so that no second copy of the weights is made.
    memo: dict[int, Any] = without_hooks(model)
    memo |= {id(t): t.detach().to("meta") for t in (*model.parameters(), *model.buffers())}
    for parameter in model.parameters():
        twin = memo[id(parameter)]
        memo[id(parameter)] = nn.Parameter(twin, parameter.requires_grad)
    copied = copy.deepcopy(model, memo)
    for module in copied.modules():
        if has_replaced_forward(module):
            del module.forward
        if type(module) in _KEEP_THE_SHAPE:
            vars(module)["forward"] = partial(_unchanged, getattr(module, "num_features", None))
    return copied.eval().float()  # as the images that pass through it


def _unchanged(channels: int | None, x: Tensor) -> Tensor:
    if channels not in (None, x.shape[1]):
        raise RuntimeError(f"BatchNorm2d of {channels} channels was given {tuple(x.shape)}")
    return x


def has_replaced_forward(module: nn.Module) -> bool:
    """Whether an attribute of the module replaces the `forward` of its class."""
    return "forward" in vars(module) and type(module).forward is not nn.Module.forward


def without_hooks(model: nn.Module) -> dict[int, Any]:
    """A memo by which `copy.deepcopy` leaves the hooks of all modules behind."""
    # deepcopy uses what its memo holds in place of what it would copy.
    return {id(vars(m)[hooks]): OrderedDict() for m in model.modules() for hooks in _HOOKS}
