"""Prepare a network for fine-tuning: freezing, learning rates, norms and in-place activations."""

import math
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.freezing import freeze, keep_in_eval_mode, unfreeze
from cnnarch.contract.inplace import set_inplace
from cnnarch.contract.parameter_groups import param_groups
from cnnarch.contract.trunk import Trunk

__all__ = ["convert_norm", "freeze", "init_weights", "param_groups", "set_inplace", "unfreeze"]

Module = TypeVar("Module", bound=nn.Module)


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
