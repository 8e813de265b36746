"""Copy a network for inference: in eval mode, without gradients or hooks."""

from typing import TypeVar

from torch import nn

from cnnarch.blocks._hooks import warn_about_hooks
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.meta import copy_without_wrappers, has_replaced_forward, without_hooks

Module = TypeVar("Module", bound=nn.Module)


def inference_copy(model: Module, *, share: bool = False) -> Module:
    """Return a copy in eval mode, without hooks, whose parameters do not require gradients.

    The copy contains no wrappers such as torch.compile or DataParallel.

    Args:
        model: left unchanged.
        share: share memory with the model's weights, for a copy that is discarded before training
            continues.

    Raises:
        ValueError: a hook that computes a layer's weight (`torch.nn.utils.weight_norm` and similar)
            would be missing from the copy, or a layer's `forward` was replaced on the instance and
            the copy would call the original method.

    A warning names modules with other forward hooks.
    """
    model = unwrapped(model)
    warn_about_hooks(model, "do not run in the copy for inference")
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils"):
                raise ValueError(
                    f"layer {name!r} computes its weight in a hook ({type(hook).__name__}), and "
                    "hooks are not copied: make the weight permanent first (torch.nn.utils has a "
                    "remove function for each)"
                )
        if has_replaced_forward(module):
            raise ValueError(
                f"the forward method of layer {name!r} was replaced, and a copy would still call "
                "the original layer: delete the module's attribute `forward` first"
            )
    memo = without_hooks(model)
    for parameter in model.parameters():
        tensor = parameter.detach()
        memo[id(parameter)] = nn.Parameter(tensor if share else tensor.clone(), requires_grad=False)
    if share:
        memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy_without_wrappers(model, memo).eval()
