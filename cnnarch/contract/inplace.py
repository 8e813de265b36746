"""Activations that overwrite their input: one map less in memory at a time."""

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

__all__ = ["is_overwriter", "set_inplace"]


def set_inplace(model: nn.Module, inplace: bool = True) -> None:
    """Let all activations overwrite their input: one map less at a time, the same values.

    In cnnarch's networks nothing else reads what an activation reads. Hooks, replaced `forward`s
    and attribution methods do, and then keep what the activation has made of it; `torch.func.vmap`
    and traces do not mind. The peak of a training step hardly falls, as PyTorch keeps for the
    backward pass what an activation gave or took either way; `set_grad_checkpointing` is what
    lowers it.

    Args:
        model: any module; changed in place. In networks of others something else may read what an
            activation overwrites.
        inplace: whether activations overwrite their input.

    >>> import cnnarch
    >>> model = cnnarch.resnet18()
    >>> set_inplace(model)
    >>> model.stem.act
    ReLU(inplace=True)
    """
    for module in model.modules():
        if is_overwriter(module):
            setattr(module, "inplace", inplace)  # noqa: B010 - any module's own


def is_overwriter(module: nn.Module) -> bool:
    """Whether it is an activation that can overwrite its input."""
    return hasattr(module, "inplace") and not isinstance(module, _DropoutNd)
