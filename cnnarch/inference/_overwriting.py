"""Let activations in a copy of a network overwrite their input if nothing else reads it."""

import operator
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import fx, nn

from cnnarch.contract.inplace import set_inplace, supports_inplace
from cnnarch.inference._layers import is_identity, is_standard_layer
from cnnarch.inference.fuse import trace_layers

_ALLOCATING_FUNCTIONS = (
    *(operator.add, operator.mul, operator.sub, operator.truediv),
    *(torch.add, torch.mul, torch.sub, torch.div, torch.cat, torch.stack),
)
_ALLOCATING_LAYERS = (nn.MaxPool2d, nn.AvgPool2d, nn.GroupNorm, nn.LayerNorm, nn.Upsample)


def overwrite_where_safe(model: nn.Module) -> None:
    """Make each activation in-place if its input is newly allocated and not read elsewhere.

    The input must come from a layer or function that allocates its output. It must not be the
    network's input, a view, or a feature map that an addition or the caller reads later. An
    activation that is used several times must be safe in each use.

    Args:
        model: changed in place; left unchanged if torch.fx cannot trace it.
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
        if supports_inplace(module) and all(_is_only_reader(node, modules) for node in nodes):
            set_inplace(module)


def _is_only_reader(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Return whether a call reads a single value and nothing else uses that value's memory."""
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    while isinstance(source, fx.Node) and len(source.users) == 1:
        if source.op != "call_module":
            return source.op == "call_function" and source.target in _ALLOCATING_FUNCTIONS
        module = modules[str(source.target)]
        if not is_identity(module):
            return is_standard_layer(module) or type(module) in _ALLOCATING_LAYERS
        source = source.args[0]
    return False
