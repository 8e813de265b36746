"""int8 for PyTorch's compiler, by torchao: ranges of maps from images, a graph from ranges."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._measure import has_vnni
from cnnarch.inference._tracing import converting, trace
from cnnarch.inference.engines._engine import Source

__all__ = ["calibrated_ranges", "quantized"]

_RANGES = "ranges.safetensors"


def calibrated_ranges(source: Source) -> dict[str, bytes]:
    """What the calibration images make of each map: its smallest and largest value, a histogram."""
    graph = _observed(source)
    with torch.no_grad():
        for images in source.calibration:
            graph(images)
    seen = {name: tensor.clone() for name, tensor in _observers(graph).items()}
    return {_RANGES: save(seen)}


def quantized(source: Source, parts: Mapping[str, bytes]) -> GraphModule:
    """The network between quantised and dequantised maps, for batches of any size.

    It computes in float32 what inductor makes 8-bit convolutions of.
    """
    graph = _observed(source)
    graph.load_state_dict(load(parts[_RANGES]), strict=False)
    with converting(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        return convert_pt2e(graph)


def _observed(source: Source) -> Any:
    """The fused network as a graph that keeps the ranges of its maps."""
    with converting():  # torchao warns at its import, too
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        two = source.example.new_zeros(2, *source.example.shape[1:])
        model = _without_norms(source.fused())
        graph = trace(model, two, free_size=False).module()
        config = get_default_x86_inductor_quantization_config(reduce_range=not has_vnni())
        quantizer = X86InductorQuantizer().set_global(config)
        # The average over a map is the logits themselves in NiN, of which 8 bits changed the top
        # class of 1.4 % of 2,000 images, where the rest of its graph changes 0.2 %.
        quantizer.set_function_type_qconfig(nn.functional.adaptive_avg_pool2d, None)
        for name, module in model.named_modules():
            # Over 8-bit maps inductor (PyTorch 2.14) drops their last, incomplete window.
            if isinstance(module, nn.MaxPool2d) and module.ceil_mode:
                quantizer.set_module_name_qconfig(name, None)
        return prepare_pt2e(graph, quantizer)


def _without_norms(model: nn.Module) -> nn.Module:
    """A copy whose norms are products and sums.

    torchao would fold a norm into the convolution before it even where something else reads the
    convolution, as dense layers do. What could be folded has been.
    """
    copy = inference_copy(model)
    for name, norm in list(copy.named_modules()):
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None and name:
            copy.set_submodule(name, _Affine(norm))
    return copy


class _Affine(nn.Module):
    """What BatchNorm is in eval mode."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        self.register_buffer("scale", scale.detach())
        self.register_buffer("shift", shift.detach())

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))


def _observers(graph: GraphModule) -> dict[str, Tensor]:
    state = graph.state_dict()
    return {name: state[name] for name in state if name.startswith("activation_post_process")}
