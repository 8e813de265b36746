"""A copy of a network to compute with: eval mode, no gradients, no hooks."""

import copy
from typing import TypeVar

from torch import nn

from cnnarch.contract.meta import has_replaced_forward, without_hooks

__all__ = ["inference_copy"]

Module = TypeVar("Module", bound=nn.Module)


def inference_copy(model: Module, *, share: bool = False) -> Module:
    """A copy in eval mode, without hooks, whose parameters need no gradient.

    Args:
        model: stays as it is.
        share: whether the copy reads the same memory, for a copy that ends before anybody
            trains `model` on.

    Raises:
        ValueError: a layer computes its weight in a hook (`torch.nn.utils.weight_norm` and the
            like), so that without hooks it would be another layer; or its `forward` was replaced
            by a function, which a copy would share with the layer itself.
    """
    for name, module in model.named_modules():
        _refuse_weights_in_hooks(name, module)
        _refuse_replaced_forward(name, module)
    memo = without_hooks(model)
    for parameter in model.parameters():
        tensor = parameter.detach()
        memo[id(parameter)] = nn.Parameter(tensor if share else tensor.clone(), requires_grad=False)
    if share:
        memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo).eval()


def _refuse_weights_in_hooks(name: str, module: nn.Module) -> None:
    for hook in module._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils"):
            raise ValueError(
                f"layer {name!r} computes its weight in a hook ({type(hook).__name__}), and hooks "
                "are not copied: make the weight permanent first (torch.nn.utils has a remove "
                "function for each)"
            )


def _refuse_replaced_forward(name: str, module: nn.Module) -> None:
    if has_replaced_forward(module):
        raise ValueError(
            f"the forward of layer {name!r} was replaced by a function, and a copy would still "
            "call the layer itself: delete the module's attribute `forward` first"
        )
