"""Options that a checkpoint depends on and that its tensors do not show."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from cnnarch.blocks.conv import SamePad2d

__all__ = ["FREE", "contradicted", "norms", "present"]

FREE = ("num_classes", "in_channels", "dropout", "drop_path", "aux_logits")
"""Options that a checkpoint has a value of but does not depend on."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


UNKNOWN = object()
"""Stands for the option of a network that does not show it and remembers none."""


def norms(model: nn.Module) -> list[Any]:
    """The normalisation layers that have an eps."""
    return [m for m in model.modules() if isinstance(m, _NORMS)]


def present(model: Any, option: str) -> Any:
    """The value of an option that a network has, read off its layers where that can be.

    A network made through its class remembers no options, so layers are asked first.
    """
    if option == "norm_eps":
        eps = {norm.eps for norm in norms(model)}
        return eps.pop() if len(eps) == 1 else tuple(eps)
    if option == "padding":
        same = any(isinstance(m, SamePad2d) for m in model.modules())
        return "same" if same else "symmetric"
    if option == "stride_in_1x1":
        return any(_strides(m) for name, m in model.named_modules() if name.endswith("reduce"))
    if option == "ceil_pool":
        return any(isinstance(m, nn.MaxPool2d) and m.ceil_mode for m in model.modules())
    if option == "activation":
        return "relu6" if any(isinstance(m, nn.ReLU6) for m in model.modules()) else "relu"
    if getattr(model, "builder", None) is None:
        return UNKNOWN
    parameter = inspect.signature(type(model)).parameters.get(option)
    return model.options.get(option, parameter.default if parameter else None)


def contradicted(model: nn.Module, needs: Mapping[str, Any]) -> dict[str, Any]:
    """The needs that a network is seen not to meet."""
    values = {name: present(model, name) for name in needs}
    return {name: needs[name] for name, v in values.items() if v not in (UNKNOWN, needs[name])}


def _strides(module: nn.Module) -> bool:
    """Whether a bottleneck's first convolution takes the stride."""
    return any(isinstance(m, nn.Conv2d) and m.stride != (1, 1) for m in module.modules())
