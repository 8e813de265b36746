"""Write activations and sums over their input where nobody can notice: less memory."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks

__all__ = ["Chain", "activate", "add"]

_MAKERS = (nn.Conv2d, nn.BatchNorm2d)
"""Layers whose output is a tensor of its own, which they do not need in the backward pass."""

_OVERWRITE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.ReLU: torch.relu_,
    nn.ReLU6: lambda x: functional.relu6(x, inplace=True),
    nn.SiLU: lambda x: functional.silu(x, inplace=True),
}
_ON_EVERY_MODULE = (
    hooks._global_forward_hooks,
    hooks._global_forward_pre_hooks,
    hooks._global_backward_hooks,
    hooks._global_backward_pre_hooks,
)
_COPIED_FOR_BACKWARD = nn.SiLU  # its gradient is of the input, which autograd would copy first


class Chain(nn.Sequential):
    """Layers one after another; activations overwrite what the layer before them made.

    Not where a hook looks on, nor where a compiler or a tracer reads the program: there each
    layer is called as in `nn.Sequential`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Call each layer on what the one before gives."""
        may = _may_overwrite(x)
        own = False  # whether nobody else refers to x
        for layer in self:
            x = _activate(layer, x) if may and own and type(layer) in _OVERWRITE else layer(x)
            passes = own and type(layer) is nn.Identity
            own = (passes or type(layer) in _MAKERS) and not _is_hooked(layer)
        return x


def add(x: Tensor, y: Tensor, maker: nn.Module) -> Tensor:
    """The sum, written over x where `maker`, which gave it, keeps it from everybody else."""
    if _may_overwrite(x) and x.shape == y.shape and x.dtype == y.dtype and _gives_its_own(maker):
        return x.add_(y)
    return x + y


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """Call an activation on a tensor that nobody else refers to and no gradient needs."""
    if type(act) in _OVERWRITE and _may_overwrite(x):
        return _activate(act, x)
    y: Tensor = act(x)
    return y


def _activate(act: nn.Module, x: Tensor) -> Tensor:
    copied = x.requires_grad and type(act) is _COPIED_FOR_BACKWARD
    y: Tensor = act(x) if copied or _is_hooked(act) else _OVERWRITE[type(act)](x)
    return y


def _may_overwrite(x: Tensor) -> bool:
    # Proxies of torch.fx and other kinds of tensors are not of this very type.
    return type(x) is Tensor and not torch.compiler.is_compiling() and not any(_ON_EVERY_MODULE)


def _gives_its_own(module: nn.Module) -> bool:
    """Whether the output is new, and no hook of the module or of its last layer sees it."""
    if _is_hooked(module) or type(module) in _MAKERS:
        return not _is_hooked(module)
    if type(module).forward not in (nn.Sequential.forward, Chain.forward):
        return False
    layers = reversed(list(module.children()))
    last = next((m for m in layers if type(m) is not nn.Identity or _is_hooked(m)), module)
    return last is not module and _gives_its_own(last)


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
