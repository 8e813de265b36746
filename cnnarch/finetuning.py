"""Prepare a network for training on something else: what is trained, how fast, in which form."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from cnnarch.blocks._checks import check_choice, check_positive
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.freezing import freeze, paths_of, trunk_of, unfreeze
from cnnarch.contract.inplace import set_inplace
from cnnarch.contract.trunk import Trunk

__all__ = ["convert_norm", "freeze", "init_weights", "param_groups", "set_inplace", "unfreeze"]

Module = TypeVar("Module", bound=nn.Module)


def param_groups(
    model: Trunk, lr: float, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer: smaller steps in earlier stages, no decay on vectors.

    The head learns at `lr`, the last stage at `layer_decay * lr`, the one before at its square,
    and so on to the stem. Biases, and norms, which have one dimension, get no weight decay.

    Args:
        model: a network or a backbone.
        lr: learning rate of the head, above 0.
        weight_decay: of weights, at least 0.
        layer_decay: factor from a stage to the one before, in (0, 1].

    Returns:
        Groups with "params", "lr", "weight_decay" and "name", such as "stages.0" for its weights
        and "stages.0, no decay" for the rest; each parameter is in one.

    Raises:
        TypeError: it is neither a network nor a backbone.
        ValueError: a number out of range.

    >>> import cnnarch
    >>> groups = param_groups(cnnarch.resnet18(), lr=0.1, layer_decay=0.5)
    >>> {group["name"]: group["lr"] for group in groups[:3]}
    {'stem': 0.003125, 'stem, no decay': 0.003125, 'stages.0': 0.00625}
    """
    check_positive("lr", lr)
    _check_between("layer_decay", layer_decay, "in (0, 1]", lambda value: 0 < value <= 1)
    _check_between("weight_decay", weight_decay, "at least 0", lambda value: 0 <= value < math.inf)
    model = trunk_of(model)
    paths = paths_of(model)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        part = next((path for path in paths if name.startswith(f"{path}.")), "head")
        steps = len(paths) - paths.index(part) if part in paths else 0
        decays = parameter.dim() > 1 and not name.endswith(".bias")
        title = part if decays else f"{part}, no decay"
        group = {
            "params": [],
            "lr": lr * layer_decay**steps,
            "weight_decay": weight_decay if decays else 0.0,
            "name": title,
        }
        groups.setdefault(title, group)["params"].append(parameter)
    return list(groups.values())


def _check_between(name: str, value: object, allowed: str, holds: Callable[[float], bool]) -> None:
    """Raise ValueError unless `value` is a number in range; nan is in none."""
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(float(value)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def convert_norm(model: Module, kind: Literal["group", "frozen", "sync"]) -> Module:
    """Put another normalisation in the place of every BatchNorm2d; changed in place and returned.

    Args:
        model: any module.
        kind: "group" is GroupNorm with 32 groups, or as many as divide the channels, and works
            with any batch; "frozen" is BatchNorm with fixed statistics, scale and shift; "sync"
            is BatchNorm over all processes of a distributed training, and takes the place of
            BatchNorm1d too. In stages that `freeze` holds the new layers are frozen too.

    Raises:
        ValueError: there is no such kind, or a norm without running statistics is to be frozen.
    """
    check_choice("kind", kind, ("group", "frozen", "sync"))
    if kind == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    make = {"group": _group_norm, "frozen": _frozen_norm}[kind]
    if isinstance(model, nn.BatchNorm2d):
        return make(model)  # type: ignore[return-value] # another norm, as was asked for
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, make(child))
    return model


def _group_norm(norm: nn.BatchNorm2d) -> nn.Module:
    channels = norm.num_features
    layer = nn.GroupNorm(math.gcd(32, channels), channels, norm.eps, affine=norm.affine)
    return _with_values(layer, norm)


def _frozen_norm(norm: nn.BatchNorm2d) -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

    if norm.running_mean is None:
        raise ValueError(f"a norm without running statistics has nothing to freeze: {norm}")
    return _with_values(FrozenBatchNorm2d(norm.num_features, norm.eps), norm)


def _with_values(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """Give a new layer the values of the old one that it has too, on the same device."""
    old = norm.state_dict()
    like = next(iter(old.values()), torch.empty(0))
    layer.to(like.device, like.dtype)
    new = layer.state_dict()
    layer.load_state_dict({name: old.get(name, value) for name, value in new.items()})
    frozen = not all(p.requires_grad for p in norm.parameters())
    layer.requires_grad_(not frozen)  # in a frozen stage, they stay frozen
    return layer.train(norm.training)
