"""Short texts that describe layers and functions in drawings of blocks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

TIMES = "\N{MULTIPLICATION SIGN}"
JOINS = {
    "add": "+",
    "sub": "\N{MINUS SIGN}",
    "mul": TIMES,
    "div": "/",
    "truediv": "/",
    "cat": "concat",
    "concat": "concat",
    "stack": "stack",
    "matmul": "matmul",
    "maximum": "max",
}
ARITHMETIC = {JOINS[name] for name in ("add", "sub", "mul", "div")}
PERMUTATIONS = {"transpose", "permute", "movedim", "swapaxes"}
RESHAPES = PERMUTATIONS | {
    *("contiguous", "expand", "flatten", "reshape", "squeeze", "unflatten", "unsqueeze"),
    *("view", "view_as"),
}
REDUCTIONS = {"mean": "avg", "amax": "max", "sum": "sum", "linalg_vector_norm": "L2 norm"}
ACTIVATIONS = {
    **{"relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "sigmoid": "Sigmoid", "tanh": "Tanh"},
    **{"softmax": "Softmax", "hardswish": "Hardswish", "relu6": "ReLU6"},
}
SHORT_NAMES = {"LayerNorm": "LN", "GroupNorm": "GN", "InstanceNorm": "IN"}
SHORT_NAMES |= {"BatchNorm": "BN", "LRN": "LRN", "LocalResponseNorm": "LRN"}


class Label(NamedTuple):
    """The kind of an operation, which decides how it is drawn, and its text.

    Args:
        kind: "input", "output", "weights" (convolution or linear layer), "norm", "activation",
            "join" (of several tensors), "split", "reshape" (no arithmetic) or "other".
        text: a few words; for a reshape, the name of the function.
    """

    kind: str
    text: str


def label_of_layer(layer: nn.Module) -> Label:
    """Describe a layer: its kind, kernel size, channels, stride and groups."""
    name = type(layer).__name__
    if isinstance(layer, _ConvNd):
        return Label("weights", _conv_text(layer))
    if isinstance(layer, nn.Linear):
        return Label("weights", f"linear, {layer.out_features}")
    if isinstance(layer, nn.Flatten | nn.Unflatten):
        return Label("reshape", "flatten")
    for norm, short in SHORT_NAMES.items():
        if norm in name:
            return Label("norm", short)
    if type(layer).__module__ == "torch.nn.modules.activation":
        return Label("activation", name)
    if "Pool" in name:
        return Label("other", _pool_text(layer))
    details = layer.extra_repr()
    return Label("other", f"{name}({details})" if 0 < len(details) <= 12 else name)


def _conv_text(conv: _ConvNd) -> str:
    name, groups = "conv", ""
    if isinstance(conv, _ConvTransposeNd):
        name = "transposed conv"
    if conv.groups > 1 and conv.groups == conv.in_channels:
        name = f"depthwise {name}"
    elif conv.groups > 1:
        groups = f", {conv.groups} groups"
    dilation = f", dilation {conv.dilation[0]}" if max(conv.dilation) > 1 else ""
    size = _size_text(conv.kernel_size)
    return f"{name} {size}, {conv.out_channels}{_stride_text(conv.stride)}{groups}{dilation}"


def _pool_text(layer: nn.Module) -> str:
    name = type(layer).__name__
    kind = "max pool" if "Max" in name else "avg pool"
    size: Any
    if "Adaptive" in name:
        size = layer.output_size
        return f"global {kind}" if size in (1, (1, 1)) else f"{kind} to {_size_text(size)}"
    size = getattr(layer, "kernel_size", None)
    return f"{kind} {_size_text(size)}{_stride_text(layer.stride)}" if size else name


def _size_text(size: Any) -> str:
    """Return "3x3" for 3 and for (3, 3)."""
    return TIMES.join(map(str, size if isinstance(size, tuple) else (size, size)))


def _stride_text(stride: Any) -> str:
    """Return ", /2" for a stride of 2 in both directions, and nothing for a stride of 1."""
    sizes = set(stride) if isinstance(stride, tuple) else {stride}
    return "" if sizes == {1} else f", /{TIMES.join(map(str, sorted(sizes)))}"


def label_of_function(
    func: Callable[..., Any],
    args: Sequence[Any],
    named: Mapping[str, Any],
    inputs: Sequence[Tensor],
    names: Mapping[int, str],
) -> Label:
    """Describe a call to a function.

    Args:
        func: the function.
        args: its arguments.
        named: its keyword arguments.
        inputs: the arguments that are computed from the block's input.
        names: the name of each parameter of the block, by its id.
    """
    name = getattr(func, "__name__", "function").strip("_")
    name = name.removeprefix("r") if name in ("radd", "rmul", "rsub") else name
    if name in JOINS:
        if len(inputs) > 1 or name in ("cat", "concat", "stack"):
            return Label("join", JOINS[name])
        others = [value for value in args if value is not inputs[0]]
        return Label("other", f"{JOINS[name]} {_constant_text(others[0], names)}")
    if name in ("chunk", "split", "unbind", "tensor_split"):
        return Label("split", "split")
    if name in RESHAPES:
        return Label("reshape", name)
    if name == "getitem":
        return Label("reshape", "slice")
    if name in REDUCTIONS:
        return Label("other", _reduction_text(name, args, named, inputs[0].dim()))
    if name in ACTIVATIONS:
        return Label("activation", ACTIVATIONS[name])
    return Label("other", name.replace("_", " "))


def _constant_text(value: object, names: Mapping[int, str]) -> str:
    if isinstance(value, int | float):
        return f"{value:.3g}"
    return names.get(id(value), "constant")


def _reduction_text(name: str, args: Sequence[Any], named: Mapping[str, Any], rank: int) -> str:
    """Name a reduction of (N, C, H, W) by the dimensions over which it reduces."""
    dims = named.get("dim", args[1] if len(args) > 1 else ())
    positive = sorted(dim % rank for dim in (dims if isinstance(dims, Sequence) else [dims]))
    kind = REDUCTIONS[name]
    if rank == 4 and positive == [2, 3]:
        return f"global {kind} pool"
    return f"{kind} over channels" if rank == 4 and positive == [1] else kind
