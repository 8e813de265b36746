"""Quantize to int8 with torchao for PyTorch's compiler, with calibrated feature map ranges."""

from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._layers import scale_and_shift
from cnnarch.inference._measure import has_vnni
from cnnarch.inference._tracing import isolate_conversion, trace
from cnnarch.inference.engines._engine import Parts, Workload

RANGES = "ranges.safetensors"


def calibrated_ranges(workload: Workload) -> dict[str, bytes]:
    """Run the calibration images and return the minimum, maximum and histogram of each map."""
    graph = _with_observers(workload)
    with torch.no_grad():
        for images in workload.calibration:
            graph(images)
    observed = {
        name: tensor.clone()
        for name, tensor in graph.state_dict().items()
        if name.startswith("activation_post_process")
    }
    return {RANGES: save(observed)}


def quantized(workload: Workload, parts: Parts) -> GraphModule:
    """Return the network with its maps quantized and dequantized, for any batch size.

    The network computes in float32; inductor replaces its convolutions with 8-bit ones.
    """
    graph = _with_observers(workload)
    graph.load_state_dict(load(parts[RANGES]), strict=False)
    with isolate_conversion(), torch.no_grad():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        return convert_pt2e(graph)


def _with_observers(workload: Workload) -> Any:
    """Return the fused network as a graph that records the ranges of its maps."""
    with isolate_conversion():  # torchao also warns when it is imported
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        two = workload.example.new_zeros(2, *workload.example.shape[1:])
        model = _without_norms(workload.fused)
        graph = trace(model, two, free_size=False).module()
        config = get_default_x86_inductor_quantization_config(reduce_range=not has_vnni())
        quantizer = X86InductorQuantizer().set_global(config)
        # In NiN, the average of a map is a logit. Quantizing this average to 8 bits changed the top
        # class of 1.4% of 2,000 images; quantizing the other layers changed it for only 0.2%.
        quantizer.set_function_type_qconfig(nn.functional.adaptive_avg_pool2d, None)
        for name, module in model.named_modules():
            # For 8-bit maps, inductor (PyTorch 2.14) drops the last, incomplete pooling window.
            if isinstance(module, nn.MaxPool2d) and module.ceil_mode:
                quantizer.set_module_name_qconfig(name, None)
        return prepare_pt2e(graph, quantizer)


def _without_norms(model: nn.Module) -> nn.Module:
    """Return a copy in which the remaining norms are replaced by multiplications and additions.

    torchao would fold a norm into the convolution before it even if another layer also reads the
    convolution's output, as in dense blocks.
    """
    copy = inference_copy(model)
    for name, norm in list(copy.named_modules()):
        is_norm = isinstance(norm, _BatchNorm | FrozenBatchNorm)
        if is_norm and norm.running_mean is not None and name:
            copy.set_submodule(name, _ScaleShift(norm))
    return copy


class _ScaleShift(nn.Module):
    """BatchNorm in eval mode as one multiplication and one addition."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        for name, values in zip(("scale", "shift"), scale_and_shift(norm), strict=True):
            self.register_buffer(name, values.to(norm.running_mean))

    def forward(self, x: Tensor) -> Tensor:
        shape = (-1, *[1] * (x.dim() - 2))
        return torch.addcmul(self.shift.view(shape), x, self.scale.view(shape))
