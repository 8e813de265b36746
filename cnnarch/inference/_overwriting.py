"""Activations that overwrite their input in a copy of a network, where nothing else reads it."""

import operator
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import fx, nn

from cnnarch.contract.inplace import set_inplace, supports_inplace
from cnnarch.inference.fuse import is_idle, is_plain, trace_layers

__all__ = ["overwrite_where_safe"]

_NEW_TENSORS = (
    *(operator.add, operator.mul, operator.sub, operator.truediv),
    *(torch.add, torch.mul, torch.sub, torch.div, torch.cat, torch.stack),
)
_NEW_MAPS = (nn.MaxPool2d, nn.AvgPool2d, nn.GroupNorm, nn.LayerNorm, nn.Upsample)


def overwrite_where_safe(model: nn.Module) -> None:
    """Let each activation overwrite its input if that is new memory that it alone reads.

    The input must come from a layer or an operation that allocates what it gives, and nothing
    else may read it: not the network's input, no view of another value, no map that a sum or the
    caller reads later. An activation that is used several times must be safe in each.

    Args:
        model: changed in place; it stays as it is where torch.fx cannot trace it.
    """
    try:
        graph = trace_layers(model)
    except ValueError:
        return
    modules = dict(model.named_modules(remove_duplicate=False))
    calls: dict[nn.Module, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        if node.op == "call_module":
            calls[modules[str(node.target)]].append(node)
    for module, nodes in calls.items():
        if supports_inplace(module) and all(_owns_its_input(node, modules) for node in nodes):
            set_inplace(module)


def _owns_its_input(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a call reads one value, in memory that nothing else refers to."""
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    while isinstance(source, fx.Node) and len(source.users) == 1:
        if source.op != "call_module":
            return source.op == "call_function" and source.target in _NEW_TENSORS
        module = modules[str(source.target)]
        if not is_idle(module):
            return is_plain(module) or type(module) in _NEW_MAPS
        source = source.args[0]
    return False
