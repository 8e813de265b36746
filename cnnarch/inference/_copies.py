"""A copy of a network to compute with: eval mode, no gradients, no hooks."""

import copy
from collections import OrderedDict
from typing import Any, TypeVar

from torch import nn

__all__ = ["inference_copy"]

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


def inference_copy(model: Module, *, share: bool = False) -> Module:
    """A copy in eval mode, without hooks, whose parameters need no gradient.

    Args:
        model: stays as it is.
        share: whether the copy reads the same memory, for a copy that ends before anybody
            trains `model` on.

    Raises:
        ValueError: a layer computes its weight in a hook (`torch.nn.utils.weight_norm` and the
            like), so that without hooks it would be another layer.
    """
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        _refuse_weights_in_hooks(name, module)
        # deepcopy takes what stands in its memo in the place of what it would copy.
        memo |= {id(vars(module)[hooks]): OrderedDict() for hooks in _HOOKS}
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
