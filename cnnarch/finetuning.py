"""Prepare a network for fine-tuning: freezing, learning rates, norms and in-place activations."""

import math
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from cnnarch.blocks._checks import check_choice, check_number, check_positive
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.freezing import freeze, keep_in_eval_mode, unfreeze
from cnnarch.contract.inplace import set_inplace
from cnnarch.contract.trunk import Trunk, as_trunk

__all__ = ["convert_norm", "freeze", "init_weights", "param_groups", "set_inplace", "unfreeze"]

Module = TypeVar("Module", bound=nn.Module)


def param_groups(
    model: Trunk, lr: float, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return optimizer parameter groups with lower learning rates in earlier stages.

    The head uses `lr`, the last stage `layer_decay * lr`, the stage before it
    `layer_decay**2 * lr`, and so on down to the stem. Biases and norms have no weight decay.

    Args:
        model: a network or a backbone.
        lr: learning rate of the head, above 0.
        weight_decay: weight decay for all other parameters, at least 0.
        layer_decay: ratio of each stage's learning rate to the next stage's, in (0, 1].

    Returns:
        Groups with "params", "lr", "weight_decay" and "name", for example "conv2_x" for the
        weights of a stage and "conv2_x, no decay" for its biases and norms. Each parameter is in
        one group.

    Raises:
        TypeError: `model` is neither a network nor a backbone.
        ValueError: a number is out of range.

    >>> import cnnarch
    >>> groups = param_groups(cnnarch.resnet18(), lr=0.1, layer_decay=0.5)
    >>> {group["name"]: group["lr"] for group in groups[:3]}
    {'conv1': 0.003125, 'conv1, no decay': 0.003125, 'conv2_x': 0.00625}
    """
    check_positive("lr", lr)
    check_number("layer_decay", layer_decay, "in (0, 1]", lambda value: 0 < value <= 1)
    check_number("weight_decay", weight_decay, "at least 0", lambda value: 0 <= value < math.inf)
    model = as_trunk(model)
    count = len(model.stage_paths)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        inside = (i for i, path in enumerate(model.stage_paths) if name.startswith(f"{path}."))
        index = next(inside, count)
        decays = parameter.dim() > 1 and not name.endswith(".bias")
        title = (*model.stage_names, "head")[index] + ("" if decays else ", no decay")
        group = {
            "params": [],
            "lr": lr * layer_decay ** (count - index),
            "weight_decay": weight_decay if decays else 0.0,
            "name": title,
        }
        groups.setdefault(title, group)["params"].append(parameter)
    return list(groups.values())


def convert_norm(model: Module, kind: Literal["group", "frozen", "sync"]) -> Module:
    """Replace every BatchNorm2d in place with a different norm, and return the model.

    Args:
        model: any module.
        kind: "group" is GroupNorm with 32 groups, or fewer if 32 does not divide the number of
            channels. It works with any batch size. "frozen" is BatchNorm with fixed statistics,
            scale and shift. "sync" is BatchNorm synchronized across the processes of a distributed
            run; it also replaces BatchNorm1d. In stages frozen by `freeze`, the new layers are
            also frozen.

    Raises:
        ValueError: the kind does not exist, or `kind` is "frozen" and a norm has no running
            statistics.
    """
    check_choice("kind", kind, ("group", "frozen", "sync"))
    if kind == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if _is_batch_norm2d(model):
        return _converted(model, kind)  # type: ignore[return-value] # a different type of norm
    converted = False
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if _is_batch_norm2d(child):
                setattr(parent, name, _converted(child, kind))
                converted = True
    if isinstance(model, Trunk) and converted:
        model.conversions = (*model.conversions, ("convert_norm", kind))
    return model


def _is_batch_norm2d(module: nn.Module) -> bool:
    kind = vars(module).get("thawed_class", type(module))  # of a norm in a frozen stage
    return issubclass(kind, nn.BatchNorm2d)


def _converted(norm: Any, kind: str) -> nn.Module:
    """Return a GroupNorm with the same weight and bias on the same device, or freeze the norm."""
    if kind == "frozen":
        if norm.running_mean is None:
            raise ValueError(f"a norm without running statistics cannot be frozen: {norm}")
        if not isinstance(norm, FrozenBatchNorm):
            FrozenBatchNorm.freeze(norm)
        norm.fix()
        return norm
    channels = norm.num_features
    layer = nn.GroupNorm(math.gcd(32, channels), channels, norm.eps, affine=norm.affine)
    old = norm.state_dict()
    like = next(iter(old.values()), torch.empty(0))
    layer.to(like.device, like.dtype)
    layer.load_state_dict({name: old[name] for name in layer.state_dict()})
    layer.requires_grad_(all(p.requires_grad for p in norm.parameters()))
    layer.train(norm.training)
    if isinstance(norm, FrozenBatchNorm):
        keep_in_eval_mode(layer)
    return layer
