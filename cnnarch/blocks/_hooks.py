"""Find the forward hooks that users registered."""

import warnings
from functools import partial
from itertools import chain
from typing import Any

from torch import nn


def warn_about_hooks(model: nn.Module, problem: str, stacklevel: int = 3) -> None:
    """Warn if a module has forward hooks that were not registered by PyTorch or cnnarch."""
    if hooked := hooked_modules(model):
        listed = ", ".join(hooked[:3]) + ", ..." * (len(hooked) > 3)
        warnings.warn(
            f"the forward hooks of {listed} {problem}: if one of them changes an input or output, "
            "the results differ",
            stacklevel=stacklevel + 1,
        )


def hooked_modules(model: nn.Module) -> list[str]:
    """Return the paths of modules with forward hooks not registered by PyTorch or cnnarch."""
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
