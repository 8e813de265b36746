"""Prepare a network for fine-tuning: freezing, learning rates, norms and in-place activations."""

import math
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks._wrappers import unwrapped
from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.blocks.initialization import init_weights
from cnnarch.contract.freezing import (
    freeze,
    keep_in_eval_mode,
    release,
    stays_in_eval_mode,
    unfreeze,
)
from cnnarch.contract.inplace import set_inplace
from cnnarch.contract.parameter_groups import param_groups
from cnnarch.contract.trunk import Trunk

__all__ = ["convert_norm", "freeze", "init_weights", "param_groups", "set_inplace", "unfreeze"]

Module = TypeVar("Module", bound=nn.Module)


def convert_norm(model: Module, kind: Literal["group", "frozen", "sync"]) -> Module:
    """Replace every BatchNorm2d in place with a different norm, and return the model.

    Stages frozen by `freeze` stay frozen until `unfreeze`, with the new norms. "group" and "frozen"
    are permanent: `unfreeze` does not undo "frozen", and neither kind can be converted again.

    Args:
        model: any module; it may be compiled or wrapped in (Distributed)DataParallel.
        kind: "group" is GroupNorm with 32 groups, or fewer if 32 does not divide the number of
            channels. It works with any batch size. "frozen" is BatchNorm with fixed statistics,
            scale and shift. "sync" is BatchNorm synchronized across the processes of a distributed
            run; it also replaces BatchNorm1d. SyncBatchNorm can be converted to the other kinds.

    Raises:
        ValueError: the kind does not exist, `kind` is "frozen" and a norm has no running
            statistics, or an earlier call has made the norms permanent.
    """
    check_choice("kind", kind, ("group", "frozen", "sync"))
    inside = unwrapped(model)
    converts = _is_batch_norm if kind == "sync" else _is_batch_norm2d
    if converts(inside):
        return _converted(inside, kind)  # type: ignore[return-value] # a different type of norm
    found = [
        (parent, name, unwrapped(child))
        for parent in inside.modules()
        for name, child in parent.named_children()
        if converts(unwrapped(child))
    ]
    norms = [norm for *_, norm in found]
    if not norms:
        _check_not_permanent(inside, kind)
    if kind == "frozen":
        for norm in norms:
            _check_statistics(norm)
    trunks = [m for m in inside.modules() if isinstance(m, Trunk)]
    changed = [trunk for trunk in trunks if not set(norms).isdisjoint(trunk.modules())]
    replaced: dict[nn.Module, nn.Module] = {}  # a norm may have several parents
    for parent, name, norm in found:
        if norm not in replaced:
            replaced[norm] = _converted(norm, kind)
        setattr(parent, name, replaced[norm])
    for trunk in changed if kind != "sync" else ():  # "sync" changes no output
        trunk.conversions = (*trunk.conversions, ("convert_norm", kind))
    return model


def _is_batch_norm(module: nn.Module) -> bool:
    """Return whether a module is a BatchNorm, which may be in a frozen stage."""
    return issubclass(_class_of(module), nn.modules.batchnorm._BatchNorm)


def _is_batch_norm2d(module: nn.Module) -> bool:
    return issubclass(_class_of(module), nn.BatchNorm2d | nn.SyncBatchNorm)


def _class_of(module: nn.Module) -> type:
    return vars(module).get("thawed_class", type(module))


def _check_not_permanent(model: nn.Module, kind: str) -> None:
    """Raise ValueError if there is nothing to convert because of an earlier call."""
    modules = list(model.modules())
    earlier = {
        argument
        for trunk in modules
        if isinstance(trunk, Trunk)
        for name, argument in trunk.conversions
        if name == "convert_norm"
    }
    if any(isinstance(m, FrozenBatchNorm) and not m.can_thaw for m in modules):
        earlier.add("frozen")
    if earlier - {kind}:
        raise ValueError(
            f"the norms cannot be converted to {kind!r}, because "
            f"convert_norm(model, {min(earlier - {kind})!r}) has already replaced them and cannot "
            "be undone: convert a newly built network"
        )


def _converted(norm: Any, kind: str) -> nn.Module:
    """Return the norm or its replacement, on the same device and frozen if the norm is frozen."""
    if kind == "frozen":
        _check_statistics(norm)
        if not isinstance(norm, FrozenBatchNorm):
            FrozenBatchNorm.freeze(norm)
        norm.fix()
        return norm
    is_frozen = stays_in_eval_mode(norm)
    release(norm)
    layer = _synchronized(norm) if kind == "sync" else _grouped(norm)
    if is_frozen:
        keep_in_eval_mode(layer)
    return layer


def _check_statistics(norm: Any) -> None:
    if norm.running_mean is None:
        raise ValueError(f"a norm without running statistics cannot be frozen: {norm}")


def _synchronized(norm: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-untyped-call]


def _grouped(norm: Any) -> nn.Module:
    """Return a GroupNorm with the same weight and bias."""
    channels = norm.num_features
    layer = nn.GroupNorm(math.gcd(32, channels), channels, norm.eps, affine=norm.affine)
    old = norm.state_dict()
    like = next(iter(old.values()), torch.empty(0))
    layer.to(like.device, like.dtype)
    layer.load_state_dict({name: old[name] for name in layer.state_dict()})
    for name, parameter in norm.named_parameters():
        layer.get_parameter(name).requires_grad_(parameter.requires_grad)
    return layer.train(norm.training)
