"""PyTorch as it is, and PyTorch with folded norms and channels last."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._overwriting import overwrite_where_safe
from cnnarch.inference.engines._engine import Engine, Runner, Source
from cnnarch.inference.engines._pt2e import quantized
from cnnarch.inference.fuse import PixelConv

__all__ = ["Eager", "Plain", "cast_for_inference", "run_eagerly", "run_quantized"]


class Plain(Engine):
    """The network as it was given. The others are judged by it."""

    name = "plain"

    def build(self, source: Source, precision: str) -> Runner:
        """Nothing is to be done."""
        return _Runner(source.model, torch.contiguous_format, getattr(torch, precision))


class Eager(Engine):
    """PyTorch's own kernels, norms folded, activations in place, channels last.

    A processor without bfloat16 is slow in it, which the times will say.
    """

    name = "eager"
    precisions = ("float32", "bfloat16")

    def build(self, source: Source, precision: str) -> Runner:
        """Fold norms, let activations overwrite their input, lay the weights out and cast them."""
        model = inference_copy(source.fused())
        overwrite_where_safe(model)
        model = model.to(memory_format=torch.channels_last)
        dtype = getattr(torch, precision)
        cast_for_inference(model, dtype)
        return _Runner(model, torch.channels_last, dtype)

    def restore(self, source: Source, precision: str, parts: Mapping[str, bytes]) -> Runner:
        """As `build`; or in a forked worker what inductor had calibrated for int8."""
        if precision == "int8":
            return run_quantized(quantized(source, parts), parts)
        return self.build(source, precision)


def run_eagerly(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> Tensor:
    """Logits in float32; not inference tensors, so that they may go into a training step.

    In the precision that was judged, whatever autocast the caller is in.
    """
    with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
        dtype = dtype if images.is_floating_point() else images.dtype
        logits = model(images.to(dtype, memory_format=layout))
    if not isinstance(logits, Tensor):
        raise TypeError(f"the network must give one Tensor, got {type(logits).__name__}")
    return logits.to(torch.float32, copy=True)


def run_quantized(graph: nn.Module, parts: Mapping[str, bytes]) -> Runner:
    """A quantised graph without a compiler, which computes in float32."""
    return _Runner(graph, torch.contiguous_format, torch.float32, parts)


class _Runner:
    def __init__(
        self,
        model: nn.Module,
        layout: torch.memory_format,
        dtype: torch.dtype,
        parts: Mapping[str, bytes] | None = None,
    ) -> None:
        self._model, self._layout, self._dtype = model, layout, dtype
        self._parts = dict(parts or {})

    def __call__(self, images: Tensor) -> Tensor:
        return run_eagerly(self._model, images, self._layout, self._dtype)

    def parts(self) -> dict[str, bytes]:
        return self._parts

    def trim(self) -> None:
        pass

    def close(self) -> None:
        self._model = nn.Identity()


def cast_for_inference(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast parameters and buffers in place, but not those that need more than 8 bits.

    BatchNorm's kernels take float32 statistics beside bfloat16 maps, and the mean colour is
    subtracted from pixels before these are cast.
    """
    for module in model.modules():
        if isinstance(module, _BatchNorm | PixelConv):
            continue
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(module, name, buffer.to(dtype))
