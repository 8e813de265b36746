"""Find the forward hooks that users registered."""

from functools import partial
from itertools import chain
from typing import Any

from torch import nn


def modules_with_hooks(model: nn.Module) -> list[str]:
    """Return the names of the modules with forward hooks not registered by PyTorch or cnnarch."""
    return [
        path or "the network"
        for path, module in model.named_modules()
        for hooks in (chain(module._forward_pre_hooks.values(), module._forward_hooks.values()),)
        if any(_origin(hook) not in ("torch", "cnnarch") for hook in hooks)
    ]


def _origin(hook: Any) -> str:
    """Return the name of the package that defines a hook."""
    while isinstance(hook, partial):
        hook = hook.func
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return str(module).partition(".")[0]
