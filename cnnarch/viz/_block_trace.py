"""Record the operations of a block: run it once, without data, and note what reads what."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cnnarch.blocks._wrappers import unwrapped
from cnnarch.contract.meta import copy_without_wrappers, without_hooks
from cnnarch.viz._layer_text import Label, label_of_function, label_of_layer

Shape = tuple[int, ...]
"""The size of a tensor without its batch dimension."""

CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_BATCH = 2


class Source(NamedTuple):
    """A tensor that an operation reads: which operation computes it, and its shape."""

    operation: int
    shape: Shape


class Operation(NamedTuple):
    """One call to a layer or a function.

    Args:
        label: its kind and the text that describes it.
        inputs: the tensors that it reads, in the order of its arguments.
        shape: the shape of its output.
    """

    label: Label
    inputs: tuple[Source, ...]
    shape: Shape


def _is_size(size: object) -> bool:
    if not isinstance(size, Sequence) or not size:
        return False
    return all(isinstance(n, int) and n > 0 for n in size)


def trace_operations(module: nn.Module, input_sizes: Sequence[Shape]) -> list[Operation]:
    """Return the operations that lead to the module's output, in the order they ran.

    The first operations have the kind "input", and the last have the kind "output".

    Raises:
        ValueError: a size is not allowed, or the module cannot process inputs of these sizes.
        TypeError: it is not a module, or it returns something other than tensors.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    if not input_sizes or not all(map(_is_size, input_sizes)):
        got = ", ".join(map(str, input_sizes)) or "none"
        raise ValueError(f"pass the size of each input, such as (64, 56, 56), got {got}")
    module = unwrapped(module)
    # The copy has no hooks, so that only the block's own operations run.
    copy = copy_without_wrappers(module, without_hooks(module)).to("meta").eval().float()
    inputs = [torch.empty(_BATCH, *size, device="meta") for size in input_sizes]
    recorder = _Recorder(copy)
    for value in inputs:
        recorder.add(Label("input", "input"), [], value)
    try:
        with torch.no_grad(), recorder:
            output = copy(*inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        sizes = ", ".join(map(str, input_sizes))
        kind = type(module).__name__
        raise ValueError(f"{kind} cannot process inputs of size {sizes}: {error}") from error
    outputs = _tensors(output)
    if not outputs:
        raise TypeError(f"{type(module).__name__} returns no tensor, got {type(output).__name__}")
    for value in outputs:
        recorder.add(Label("output", "output"), [value], value)
    return recorder.operations


class _Recorder(TorchFunctionMode):
    """Records calls to layers by hooks, and calls to functions outside of layers."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._sources: dict[int, tuple[Tensor, Source]] = {}  # holding tensors keeps ids unique
        self._layers = 0  # the number of layers that are running
        self._names = {id(p): n.rpartition(".")[2] for n, p in module.named_parameters()}
        for layer in module.modules():
            if is_layer(layer, module):
                layer.register_forward_pre_hook(self._enter)
                layer.register_forward_hook(self._leave, with_kwargs=True)

    def add(self, label: Label, inputs: Iterable[Tensor], output: object) -> None:
        """Record an operation and its outputs."""
        sources = tuple(self._sources[id(x)][1] for x in inputs if id(x) in self._sources)
        outputs = _tensors(output)
        shapes = [tuple(value.shape[1:]) for value in outputs]
        for value, shape in zip(outputs, shapes, strict=True):
            self._sources[id(value)] = (value, Source(len(self.operations), shape))
        self.operations.append(Operation(label, sources, shapes[0]))

    def _enter(self, layer: nn.Module, inputs: Any) -> None:  # noqa: ARG002 - a hook
        self._layers += 1

    def _leave(self, layer: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        self._layers -= 1
        tensors = _tensors((*inputs, *named.values()))
        overwrites = getattr(layer, "inplace", False)
        if not self._layers and (overwrites or not any(output is value for value in tensors)):
            self.add(label_of_layer(layer), tensors, output)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._layers or not _tensors(output):
            return output
        values = [*args, *kwargs.values()]
        known = [value for value in _tensors(values) if id(value) in self._sources]
        if known and output is not known[0]:
            self.add(label_of_function(func, args, kwargs, known, self._names), known, output)
        return output


def is_layer(module: nn.Module, root: nn.Module) -> bool:
    """Return whether a module is drawn as one box: layers of PyTorch, and those without children.

    Subclasses of PyTorch's layers are layers too.
    """
    bases = (base for base in type(module).__mro__ if base not in CONTAINERS)
    if any(base.__module__.startswith("torch.nn.modules.") for base in bases):
        return True
    return module is not root and next(module.children(), None) is None


def _tensors(values: object) -> list[Tensor]:
    """Return the tensors in nested sequences, in order."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [tensor for value in values for tensor in _tensors(value)]
    return []
