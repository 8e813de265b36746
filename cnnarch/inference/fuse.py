"""Fold BatchNorm and the normalization of pixels into adjacent convolutions.

In eval mode, BatchNorm scales and shifts each channel, as does preprocessing with a mean and a
standard deviation. An adjacent convolution or linear layer can absorb both into its weights.
`torch.nn.utils.fusion` only folds into the layer before a norm, and rounds to the layer's dtype.
"""

import inspect
from collections import Counter
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.node import Argument
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from cnnarch.blocks.reparameterization import RepConv
from cnnarch.blocks.same_padding import SamePad2d
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.trunk import Trunk, check_images
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._layers import (
    has_fixed_statistics,
    in_float64,
    is_identity,
    is_standard_layer,
    scale_and_shift,
    set_parameters,
    weight_and_bias,
)
from cnnarch.inference._standardized import store_standardized_weights
from cnnarch.inference.reparameterize import merge_all_branches
from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.rebuilding import check_rebuilds

__all__ = ["PixelConv", "fuse"]

Module = TypeVar("Module", bound=nn.Module)

_PADS = (SamePad2d, nn.ZeroPad2d)
_LAYERS = (_ConvNd, nn.Linear, _BatchNorm, *_PADS)
_KEEPS_SHAPE = (nn.BatchNorm1d, nn.GELU, nn.Linear, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh)


def fuse(model: Module, preprocessing: Preprocessing | None = None) -> Module:
    r"""Return a copy for inference with BatchNorm folded into the layers before and after it.

    A BatchNorm is folded into the convolution or linear layer before it, or into the convolution
    after it, if the result is the same: the layer is used once, nothing else reads the values
    between them, and a convolution after the norm does not pad with zeros (unless the shift is
    zero). Folded norms become `nn.Identity`, which preserves the name of every layer, and the copy
    is an instance of the model's class. A `cnnarch.blocks.RepConv`, which RepVGG and MobileOne
    consist of, becomes one convolution; a `StandardizedConv2d` becomes a convolution that stores
    the standardized weights. Folded weights are computed in float64.

    With `preprocessing`, the copy accepts pixels from 0 to 255 (uint8, as image decoders return
    them) instead of $(x / 255 - \mu) / \sigma$. The scale is folded into the first convolution. The
    mean is subtracted during the conversion from uint8 to floating point.

    The copy must stay in eval mode. The model's hooks are not copied. The copy of a cnnarch network
    cannot be saved with `save_pretrained`, because its builder would build an unfused network.
    Networks with the option `deploy` are the exception: their copy is the network that their
    builder builds with `deploy=True`, unless preprocessing is folded.

    Args:
        model: any module that `torch.fx` can trace, including all networks in cnnarch and
            torchvision; left unchanged.
        preprocessing: for example `model.preprocessing`, whose mean and std are folded.

    Raises:
        TypeError: `preprocessing` is not a `Preprocessing`.
        ValueError: the model cannot be traced, or its first layer is not a convolution with the
            same number of channels as `preprocessing`.

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
    with torch.no_grad():
        fused = merge_all_branches(inference_copy(model))
        store_standardized_weights(fused)
        calls = _LayerCalls(fused)
        calls.fold_norms()
        if preprocessing is not None:
            calls.fold_pixels(preprocessing)
    calls.replace_layers()
    if isinstance(fused, Trunk):
        _record_deployed(fused)
    if isinstance(fused, ImageClassifier):
        fused.fused_from = fused.builder or fused.fused_from
        if not _is_deployed(fused):
            fused.builder = None
        if preprocessing is not None:  # its transform now returns pixels, as the copy expects
            channels = len(preprocessing.mean)
            zeros, unit = (0.0,) * channels, (1 / 255,) * channels
            fused.preprocessing = replace(preprocessing, mean=zeros, std=unit)
    return fused


def _record_deployed(fused: Trunk) -> None:
    """Set the option `deploy` of a network that has it if no branches are left."""
    branches = any(isinstance(module, RepConv) for module in fused.modules())
    if "deploy" in fused.options and not branches:
        fused.options = {**fused.options, "deploy": True}


def _is_deployed(fused: ImageClassifier) -> bool:
    """Return whether the network's builder builds it with `deploy=True`."""
    if not fused.options.get("deploy"):
        return False
    try:
        check_rebuilds(fused)
    except WeightsError:  # preprocessing was folded, or layers had been changed
        return False
    return True


class PixelConv(nn.Module):
    r"""A convolution of pixels from 0 to 255: $y = W * \mathrm{pad}(x - 255 \mu) + b$.

    The mean is subtracted before padding, so zeros outside the image still represent the mean
    color. The subtraction takes no extra time, as uint8 must be converted to floating point anyway.

    Args:
        mean: the mean of each channel, from 0 to 255.
        conv: the convolution, whose weights include 1 / 255 and the standard deviation.
        pad: a layer that pads the image first if the convolution does not.

    Shape:
        (N, C, H, W), uint8 or floating point -> the convolution's output
    """

    mean: Tensor

    def __init__(self, mean: Tensor, conv: nn.Conv2d, pad: nn.Module | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(1, -1, 1, 1))
        self.pad = nn.Identity() if pad is None else pad
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Subtract the mean, pad, and convolve."""
        return self.conv(self.pad((x - self.mean).to(self.conv.weight.dtype)))


class _LayerTracer(fx.Tracer):
    """A tracer that records each layer as one call, including layers of user-defined subclasses."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_norm = getattr(type(m), "computes_batch_norm", False)  # including subclasses
        is_layer = isinstance(m, _LAYERS) or is_norm or is_standard_layer(m)
        return is_layer or super().is_leaf_module(m, module_qualified_name)


class _LayerCalls:
    """The calls to a network's layers in order, and the layers to replace."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.graph = trace_layers(model)
        self.replacements: dict[nn.Module, nn.Module] = {}
        modules = dict(model.named_modules(remove_duplicate=False))
        self.module: dict[fx.Node, nn.Module] = {}
        self.uses: Counter[nn.Module] = Counter()
        for node in list(self.graph.nodes):
            if node.op == "get_attr":  # a tensor that is read outside the layer's own call
                self.uses[modules[str(node.target).rpartition(".")[0]]] += 2
            module = modules[str(node.target)] if node.op == "call_module" else None
            if node.target is check_images or (module is not None and is_identity(module)):
                self._remove(node)
            elif module is not None:
                self.module[node] = module
                self.uses[module] += 1

    def _remove(self, node: fx.Node) -> None:
        node.replace_all_uses_with(node.all_input_nodes[0])
        self.graph.erase_node(node)

    def _layer(self, node: object) -> nn.Module | None:
        """Return the layer that computes a value if it is standard, used once and has one input."""
        if not isinstance(node, fx.Node) or node not in self.module or len(node.args) != 1:
            return None
        module = self.module[node]
        return module if self.uses[module] == 1 and is_standard_layer(module) else None

    def fold_norms(self) -> None:
        """Fold each BatchNorm that can be folded exactly."""
        for node in list(self.module):
            norm = self._layer(node)
            if norm is None or not has_fixed_statistics(norm):
                continue
            source, (scale, shift) = node.args[0], scale_and_shift(norm)
            reader = self._layer(next(iter(node.users))) if len(node.users) == 1 else None
            if self._can_scale_output(source):
                _scale_output(self._layer(source), scale, shift)
            elif isinstance(reader, _ConvNd) and not (_pads_with_zeros(reader) and shift.any()):
                _scale_input(reader, scale, shift)
            else:
                continue
            self.replacements[norm] = nn.Identity()
            self._remove(node)

    def _can_scale_output(self, node: Argument) -> bool:
        """Return whether a norm applied to this value can be folded into the layer before it.

        For a linear layer, the value's shape must be known to be (N, C): BatchNorm1d normalizes
        over L, not C, if the shape is (N, L, C).
        """
        layer = self._layer(node)
        if not isinstance(node, fx.Node) or len(node.users) > 1:
            return False
        return isinstance(layer, _ConvNd) or (
            isinstance(layer, nn.Linear) and self._is_flat(node.args[0])
        )

    def _is_flat(self, node: Argument) -> bool:
        while isinstance(node, fx.Node):
            module = self.module.get(node)
            if isinstance(module, nn.Flatten):
                return (module.start_dim, module.end_dim) == (1, -1)
            if node.target in (torch.flatten, "flatten"):
                return node.args[1:] == (1,) and not node.kwargs
            if not isinstance(module, _KEEPS_SHAPE):
                return False
            node = node.args[0]
        return False

    def fold_pixels(self, preprocessing: Preprocessing) -> None:
        """Make the first convolution accept pixels from 0 to 255."""
        images = next(node for node in self.graph.nodes if node.op == "placeholder")
        if len(images.users) != 1:
            readers = ", ".join(map(self._describe, images.users))
            raise ValueError(f"exactly one layer must read the images, got {readers}")
        node, pad = next(iter(images.users)), None
        if isinstance(self.module.get(node), _PADS) and len(node.users) == 1:
            pad, node = self.module[node], next(iter(node.users))
        conv = self._layer(node)
        if not isinstance(conv, nn.Conv2d):
            raise ValueError(
                "preprocessing can only be folded into a convolution that is used once, but the "
                f"first layer is {self._describe(node)}"
            )
        if conv.in_channels != len(preprocessing.mean):
            raise ValueError(
                f"the network expects {conv.in_channels} channels, but preprocessing has "
                f"{len(preprocessing.mean)}"
            )
        like = in_float64(conv.weight)
        std, mean = like.new_tensor(preprocessing.std), like.new_tensor(preprocessing.mean)
        _scale_input(conv, 1 / (255 * std), torch.zeros_like(std))
        # Not rounded to bfloat16, which is not precise enough for the mean.
        precision = torch.promote_types(conv.weight.dtype, torch.float32)
        mean = (255 * mean).to(conv.weight.device, precision)
        self.replacements[conv] = PixelConv(mean, conv, pad).eval()
        if pad is not None:
            self.replacements[pad] = nn.Identity()

    def _describe(self, node: fx.Node) -> str:
        module = self.module.get(node)
        return f"{node.target} ({type(module).__name__})" if module else f"{node.op} {node.target}"

    def replace_layers(self) -> None:
        """Register the replacements under the names of the original layers."""
        for name, module in list(self.model.named_modules(remove_duplicate=False)):
            if name and module in self.replacements:
                self.model.set_submodule(name, self.replacements[module])
        if self.replacements:
            trace_layers(self.model)  # fails if a layer is called by an unregistered name


def trace_layers(model: nn.Module) -> fx.Graph:
    """Return the graph of a network in which each layer is one node.

    Raises:
        ValueError: torch.fx cannot trace it.
    """
    parameters = inspect.signature(model.forward).parameters.values()
    empty = inspect.Parameter.empty
    defaults = {p.name: p.default for p in parameters if p.default is not empty}
    try:
        return _LayerTracer().trace(model, defaults)
    except Exception as error:  # anything that the model's code raises when it receives a proxy
        raise ValueError(
            f"torch.fx cannot trace {type(model).__name__}, and fuse needs the trace to find out "
            f"what each layer reads: {error}"
        ) from error


def _scale_output(layer: nn.Module | None, scale: Tensor, shift: Tensor) -> None:
    """Make a layer scale and shift each channel of its output."""
    assert isinstance(layer, _ConvNd | nn.Linear)
    weight, bias = weight_and_bias(layer)
    weight = weight * scale.view(-1, *[1] * (weight.dim() - 1))
    set_parameters(layer, weight, scale * bias + shift)


def _scale_input(conv: _ConvNd, scale: Tensor, shift: Tensor) -> None:
    """Make a convolution scale and shift each channel of its input."""
    weight, bias = weight_and_bias(conv)
    # (groups, out / groups, in / groups, positions) by (groups, 1, in / groups, 1)
    grouped = weight.view(conv.groups, -1, weight.shape[1], weight[0, 0].numel())
    scale, shift = (values.view(conv.groups, 1, -1, 1) for values in (scale, shift))
    bias = bias + (grouped * shift).sum((2, 3)).flatten()
    set_parameters(conv, (grouped * scale).view_as(weight), bias)


def _pads_with_zeros(conv: _ConvNd) -> bool:
    pads = conv.padding != "valid" if isinstance(conv.padding, str) else any(conv.padding)
    return pads and conv.padding_mode == "zeros"
