"""Fold BatchNorm, and the normalisation of pixels, into the convolutions beside them.

In eval mode BatchNorm is a factor and a shift for each channel, as is pre-processing with a mean
and a standard deviation. A convolution or linear layer beside it can take both into its weights.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple, TypeGuard, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import parametrize

from cnnarch.blocks.conv import SamePad2d
from cnnarch.contract.checks import check_images
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.inference._copies import inference_copy
from cnnarch.preprocessing import Preprocessing

__all__ = ["PixelConv", "fuse", "is_idle", "is_plain", "trace_layers"]

Module = TypeVar("Module", bound=nn.Module)

_FORWARDS = (
    nn.Conv1d.forward,
    nn.Conv2d.forward,
    nn.Conv3d.forward,
    nn.Linear.forward,
    _BatchNorm.forward,
    nn.SyncBatchNorm.forward,
)
_CONV_FORWARDS = (nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward)
_PADS = (SamePad2d, nn.ZeroPad2d)
_LAYERS = (_ConvNd, nn.Linear, _BatchNorm, *_PADS)
_SHAPE_STAYS = (
    nn.BatchNorm1d,
    nn.GELU,
    nn.Linear,
    nn.ReLU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
)


def fuse(model: Module, preprocessing: Preprocessing | None = None) -> Module:
    r"""A copy for inference with BatchNorm folded into the layers before and after it.

    A BatchNorm goes into the convolution before it, the linear layer before it, or the
    convolution after it, where the result is the same: the layer is used once, nothing else reads
    what is between them, and a convolution after it does not pad with zeros (unless the shift
    is zero). Folded norms become `nn.Identity`, so that every layer keeps its name, and the copy
    is of the model's own class. Weights are computed in float64.

    With `preprocessing` the copy reads pixels from 0 to 255, uint8 as decoders give them, in place
    of $(x / 255 - \mu) / \sigma$: the factor goes into the first convolution, the mean is
    subtracted as uint8 becomes floating point.

    The copy is in eval mode and must stay there. Hooks of `model` are not copied. A network of
    cnnarch can no longer be saved by `save_pretrained`: its builder makes unfused ones.

    Args:
        model: any module that `torch.fx` can trace; it stays as it is. cnnarch's and torchvision's
            networks can all be traced.
        preprocessing: such as `model.preprocessing`; its mean and std are folded.

    Raises:
        TypeError: `preprocessing` is not a `Preprocessing`.
        ValueError: the model cannot be traced, or its first layer is not a convolution of as many
            channels as `preprocessing` has.

    >>> import cnnarch
    >>> fused = fuse(cnnarch.resnet18(num_classes=10))
    >>> fused.stem
    ConvNormAct(
      (conv): Conv2d(3, 64, kernel_size=(7, 7), stride=(2, 2), padding=(3, 3))
      (norm): Identity()
      (act): ReLU()
    )
    """
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise TypeError(f"preprocessing must be a Preprocessing, got {preprocessing!r}")
    twin = inference_copy(model)
    calls = _Calls(twin)
    with torch.no_grad():
        calls.fold_norms()
        if preprocessing is not None:
            calls.fold_pixels(preprocessing)
    calls.put_in_place()
    if isinstance(twin, ImageClassifier):
        twin.builder = None
        if preprocessing is not None:  # what its transform gives is what the copy now reads
            ones = (1.0,) * len(preprocessing.mean)
            zeros, unit = (0.0,) * len(ones), tuple(1 / 255 for _ in ones)
            twin.preprocessing = replace(preprocessing, mean=zeros, std=unit)
    return twin


class PixelConv(nn.Module):
    r"""A convolution of pixels from 0 to 255: $y = W * \mathrm{pad}(x - 255 \mu) + b$.

    The mean is subtracted before the padding, so that zeros outside the image stay what they
    were: the mean colour. It takes no time of its own, as uint8 must become floating point.

    Args:
        mean: of each channel, from 0 to 255.
        conv: the convolution, whose weights have 1 / 255 and the standard deviation in them.
        pad: what pads the image before it, if the convolution does not do so itself.

    Shape:
        (N, C, H, W), uint8 or floating point -> as the convolution
    """

    mean: Tensor

    def __init__(self, mean: Tensor, conv: nn.Conv2d, pad: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.pad = nn.Identity() if pad is None else pad
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Subtract, pad, convolve."""
        y: Tensor = self.conv(self.pad((x - self.mean).to(self.conv.weight.dtype)))
        return y


class _Affine(NamedTuple):
    """y = scale * x + shift for each channel, in float64."""

    scale: Tensor
    shift: Tensor


class _Tracer(fx.Tracer):
    """Sees each layer as one call, also those of a user's own subclass."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_norm = getattr(type(m), "computes_batch_norm", False)  # or derived from one
        is_layer = isinstance(m, _LAYERS) or is_norm or is_plain(m)
        return is_layer or super().is_leaf_module(m, module_qualified_name)


class _Calls:
    """Which layer of a network reads what, and what replaces some of them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.graph = trace_layers(model)
        self.replaced: dict[nn.Module, nn.Module] = {}
        modules = dict(model.named_modules(remove_duplicate=False))
        self.module: dict[fx.Node, nn.Module] = {}
        self.times: Counter[nn.Module] = Counter()
        for node in list(self.graph.nodes):
            if node.op == "get_attr":  # a tensor that is read beside the layer's own call
                self.times[modules[str(node.target).rpartition(".")[0]]] += 2
            module = modules[str(node.target)] if node.op == "call_module" else None
            if node.target is check_images or is_idle(module):
                self._leave_out(node)
            elif module is not None:
                self.module[node] = module
                self.times[module] += 1

    def _leave_out(self, node: fx.Node) -> None:
        node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.erase_node(node)

    def layer(self, node: object) -> nn.Module | None:
        """The layer that a value comes from, if it is a plain one, used once, on one value."""
        if not isinstance(node, fx.Node) or node not in self.module or len(node.args) != 1:
            return None
        module = self.module[node]
        return module if self.times[module] == 1 and is_plain(module) else None

    def fold_norms(self) -> None:
        """Fold each BatchNorm that can be."""
        for node in list(self.module):
            norm = self.layer(node)
            if norm is None or not _is_fixed_norm(norm):
                continue
            source, affine = node.args[0], _affine(norm)
            if self._fold_back(source, affine) or self._fold_forward(node, affine):
                self.replaced[norm] = nn.Identity()
                self._leave_out(node)

    def _fold_back(self, source: Argument, affine: _Affine) -> bool:
        layer = self.layer(source)
        if not isinstance(source, fx.Node) or not isinstance(layer, _ConvNd | nn.Linear):
            return False
        if len(source.users) > 1:
            return False
        if isinstance(layer, nn.Linear) and not self._gives_vectors(source.args[0]):
            return False
        scale, shift = affine
        weight, bias = _exact(layer.weight), _exact_bias(layer)
        weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
        _set(layer, weight, scale * bias + shift)
        return True

    def _fold_forward(self, node: fx.Node, affine: _Affine) -> bool:
        reader = self.layer(next(iter(node.users))) if len(node.users) == 1 else None
        if not isinstance(reader, _ConvNd):
            return False
        if _pads_with_zeros(reader) and affine.shift.any():
            return False
        _apply_before(reader, affine)
        return True

    def _gives_vectors(self, node: Argument) -> bool:
        """Whether a value is known to be (N, C): BatchNorm1d of (N, L, C) is over L, not over C."""
        while isinstance(node, fx.Node):
            module = self.module.get(node)
            if isinstance(module, nn.Flatten):
                return (module.start_dim, module.end_dim) == (1, -1)
            if node.target in (torch.flatten, "flatten"):
                return node.args[1:] == (1,) and not node.kwargs
            if not isinstance(module, _SHAPE_STAYS):
                return False
            node = node.args[0]
        return False

    def fold_pixels(self, preprocessing: Preprocessing) -> None:
        """Let the first convolution read pixels from 0 to 255."""
        node, pad = self._first_reader(), None
        if isinstance(self.module.get(node), _PADS) and len(node.users) == 1:
            pad, node = self.module[node], next(iter(node.users))
        conv = self.layer(node)
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(
                "preprocessing can be folded into a convolution that is used once, but the first "
                f"to read the images is {_describe(node, self.module)}"
            )
        if conv.in_channels != len(preprocessing.mean):
            raise ValueError(
                f"the network reads {conv.in_channels} channels, but preprocessing is of "
                f"{len(preprocessing.mean)}"
            )
        like = _exact(conv.weight)
        std, mean = like.new_tensor(preprocessing.std), like.new_tensor(preprocessing.mean)
        _apply_before(conv, _Affine(1 / (255 * std), torch.zeros_like(std)))
        # Not rounded to bfloat16, which has fewer digits than the mean.
        precision = torch.promote_types(conv.weight.dtype, torch.float32)
        mean = (255 * mean).to(conv.weight.device, precision)
        self.replaced[conv] = PixelConv(mean, conv, pad).eval()
        if pad is not None:
            self.replaced[pad] = nn.Identity()

    def _first_reader(self) -> fx.Node:
        images = next(node for node in self.graph.nodes if node.op == "placeholder")
        if len(images.users) != 1:
            readers = ", ".join(_describe(node, self.module) for node in images.users)
            raise ValueError(f"preprocessing needs one layer that reads the images, got {readers}")
        return next(iter(images.users))

    def put_in_place(self) -> None:
        """Put the new modules where the old ones are registered."""
        for parent in list(self.model.modules()):
            for name, child in parent._modules.items():
                if child in self.replaced:
                    parent._modules[name] = self.replaced[child]
        if self.replaced:
            trace_layers(
                self.model
            )  # fails if the model calls a layer by another way than its name


def trace_layers(model: nn.Module) -> fx.Graph:
    """The graph of a network whose nodes are its layers.

    Raises:
        ValueError: torch.fx cannot trace it.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    empty = inspect.Parameter.empty
    defaults = {p.name: p.default for p in parameters if p.default is not empty}
    try:
        return _Tracer().trace(model, defaults)
    except Exception as error:  # whatever the model's own code raises when it meets a proxy
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx, which is how fuse learns what "
            f"each layer reads: {error}"
        ) from error


def is_plain(module: nn.Module) -> bool:
    """Whether it computes what PyTorch's convolution, linear layer or BatchNorm computes."""
    known = type(module).forward in (*_FORWARDS, *_frozen_forwards())
    if "forward" in vars(module) or not (known or _says_batch_norm(module)):
        return False
    if isinstance(module, _ConvNd) and type(module)._conv_forward not in _CONV_FORWARDS:
        return False
    return not parametrize.is_parametrized(module)


def _says_batch_norm(module: nn.Module) -> bool:
    """Whether the class that wrote its `forward` says that this computes BatchNorm.

    A subclass with a `forward` of its own has to say so again.
    """
    author = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return vars(author).get("computes_batch_norm") is True


def _frozen_forwards() -> tuple[object, ...]:
    """That of torchvision's frozen BatchNorm, if anybody has imported it."""
    ops = sys.modules.get("torchvision.ops.misc")
    return (ops.FrozenBatchNorm2d.forward,) if ops else ()


def is_idle(module: nn.Module | None) -> bool:
    """Whether it hands its input on."""
    return type(module) is nn.Identity or (isinstance(module, _DropoutNd) and not module.training)


def _is_fixed_norm(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a BatchNorm, of PyTorch or like it, that uses running statistics."""
    return not module.training and isinstance(getattr(module, "running_mean", None), Tensor)


def _affine(norm: _BatchNorm) -> _Affine:
    """What a BatchNorm computes in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = _exact(norm.running_mean), _exact(norm.running_var)
    weight = torch.ones_like(mean) if norm.weight is None else _exact(norm.weight)
    bias = torch.zeros_like(mean) if norm.bias is None else _exact(norm.bias)
    scale = weight / torch.sqrt(var + norm.eps)
    return _Affine(scale, bias - scale * mean)


def _apply_before(conv: _ConvNd, affine: _Affine) -> None:
    """Let a convolution apply an affine map to each channel of its input."""
    weight, bias = _exact(conv.weight), _exact_bias(conv)
    # (groups, out / groups, in / groups, positions) by (groups, 1, in / groups, 1)
    grouped = weight.view(conv.groups, -1, weight.shape[1], weight[0, 0].numel())
    scale, shift = (values.view(conv.groups, 1, -1, 1) for values in affine)
    _set(conv, (grouped * scale).view_as(weight), bias + (grouped * shift).sum((2, 3)).flatten())


def _pads_with_zeros(conv: _ConvNd) -> bool:
    pads = conv.padding != "valid" if isinstance(conv.padding, str) else any(conv.padding)
    return pads and conv.padding_mode == "zeros"


def _exact(tensor: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return tensor.detach().to(
        "cpu" if tensor.device.type == "mps" else tensor.device, torch.float64
    )


def _exact_bias(layer: _ConvNd | nn.Linear) -> Tensor:
    weight = _exact(layer.weight)
    return weight.new_zeros(len(weight)) if layer.bias is None else _exact(layer.bias)


def _set(layer: _ConvNd | nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Give a layer new values in its own precision, and its own memory format."""
    old = layer.weight
    layer.weight = nn.Parameter(torch.empty_like(old).copy_(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(old.device, old.dtype), requires_grad=False)


def _describe(node: fx.Node, modules: Mapping[fx.Node, nn.Module]) -> str:
    module = modules.get(node)
    return f"{node.target} ({type(module).__name__})" if module else f"{node.op} {node.target}"
