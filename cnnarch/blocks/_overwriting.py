"""Write an activation over its input where nobody can notice: the same values, less memory."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import module as hooks

__all__ = ["activate", "run"]

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


def run(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Call layers one after another; activations overwrite what the layer before them made.

    Not where a hook looks on, nor where a compiler or a tracer reads the program: there each
    layer is called as in `nn.Sequential`.
    """
    if not _may_overwrite(x):
        for layer in layers:
            x = layer(x)
        return x
    own = False  # whether nobody else refers to x
    for layer in layers:
        x = _activate(layer, x) if own and type(layer) in _OVERWRITE else layer(x)
        passes = own and type(layer) is nn.Identity
        own = (passes or type(layer) in _MAKERS) and not _is_hooked(layer)
    return x


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


def _is_hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
