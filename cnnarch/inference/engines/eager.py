"""Plain PyTorch, and PyTorch with folded norms and the channels-last memory format."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.blocks.frozen_norm import FrozenBatchNorm
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._overwriting import overwrite_where_safe
from cnnarch.inference.engines._engine import Engine, Parts, Workload
from cnnarch.inference.engines._pt2e import RANGES, quantized
from cnnarch.inference.fuse import PixelConv


class PlainEager(Engine):
    """The original network, with which the other candidates are compared."""

    name = "plain"

    def __call__(self, images: Tensor) -> Tensor:
        """Return the network's logits."""
        layout = torch.contiguous_format
        return compute_logits(self.workload.model, images, layout, torch.float32)


class Eager(Engine):
    """PyTorch's kernels with folded norms, in-place activations, and channels-last memory format.

    bfloat16 is slow on processors without bfloat16 instructions, as the measured times show. In
    int8, eager runs the graph calibrated by inductor if that graph cannot be compiled.
    """

    name = "eager"
    precisions = ("float32", "bfloat16", "float16")
    layout: ClassVar[torch.memory_format] = torch.channels_last
    files = (RANGES,)

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        super().__init__(workload, precision, parts)
        self.dtype, self._layout = torch.float32, torch.contiguous_format
        if precision == "int8":
            self.model: nn.Module = quantized(workload, self._parts)
            return
        self.dtype, self._layout = getattr(torch, precision), self.layout
        self.model = inference_copy(workload.fused)
        overwrite_where_safe(self.model)
        self.model.to(memory_format=self.layout)
        cast_for_inference(self.model, self.dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits for images of any size that the network accepts."""
        return compute_logits(self.model, images, self._layout, self.dtype)

    def network_for(self, _shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """Return the network, which expects inputs such as `input_like` returns."""
        return self.model

    def input_like(self, images: Tensor, shape: torch.Size) -> Tensor:
        """Return a network input of this shape, with zeros in place of the images."""
        dtype = self.dtype if images.is_floating_point() else images.dtype
        with torch.inference_mode():
            return torch.empty(
                shape, dtype=dtype, device=images.device, memory_format=self._layout
            ).zero_()


class ContiguousEager(Eager):
    """Like `Eager`, in the contiguous memory format, which is faster for some networks on GPUs."""

    name = "eager_contiguous"
    devices = ("cuda",)
    layout = torch.contiguous_format


def compute_logits(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> Tensor:
    """Return logits in float32, as normal tensors that autograd can use.

    The caller's autocast is disabled, so the network runs in the precision that was checked.
    """
    with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
        dtype = dtype if images.is_floating_point() else images.dtype
        logits = model(images.to(dtype, memory_format=layout))
    if not isinstance(logits, Tensor):
        raise TypeError(f"the network must return one Tensor, got {type(logits).__name__}")
    return logits.to(torch.float32, copy=True)


def cast_for_inference(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters and buffers in place, except those that need more than 8 bits of precision.

    BatchNorm kernels accept float32 statistics with bfloat16 maps, and `PixelConv` subtracts the
    mean color before casting the pixels.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm | FrozenBatchNorm | PixelConv):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
