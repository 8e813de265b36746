"""PyTorch's compiler, inductor, with the weights frozen into the compiled code."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._offline import why_missing
from cnnarch.inference._tracing import isolate_conversion, trace
from cnnarch.inference.engines._engine import EngineByShape, Parts, Workload
from cnnarch.inference.engines._pt2e import RANGES, calibrated_ranges
from cnnarch.inference.engines.eager import Eager, cast_for_inference, compute_logits

_INT8_TOLERANCE = 0.05  # relative to the norm of the logits


class Inductor(EngineByShape):
    """`torch.compile` with freezing, for the example's shape.

    Other shapes run in eager mode until they are frequent. The compiler writes to a temporary
    folder that is deleted once the code has been loaded, so each process compiles again: machine
    code from other processes is not trusted. In int8, the ranges of the maps are saved, so a new
    process needs no calibration images.

    Class attributes:
        options: the compiler's settings.
    """

    name = "inductor"
    precisions = ("float32", "bfloat16", "float16", "int8")
    packages = ("torch", "torchao")
    files = (RANGES,)
    build_seconds = (8.0, 0.15)
    options: ClassVar[dict[str, Any]] = {
        "freezing": True,
        "cpp_cache_precompile_headers": False,  # the headers would be left in a shared folder
    }

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        if precision == "int8" and not parts:
            parts = calibrated_ranges(workload)
        self._eager = Eager(workload, precision, parts)
        super().__init__(workload, precision, parts, self._eager)

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:
        """Return why inductor cannot be used on this machine, or None."""
        if why := super().why_unavailable(precision, device):
            return why
        if precision == "int8" and (missing := why_missing("torchao")):
            return missing
        with isolate_conversion():  # these imports create torch's cache folder
            from torch._inductor.cpp_builder import get_cpp_compiler
            from torch._inductor.exc import InvalidCxxCompiler
            from torch.utils._triton import has_triton

            if device.type != "cpu":
                return None if has_triton() else "Triton is not installed"
            try:
                get_cpp_compiler()
            except InvalidCxxCompiler:
                return "no C++ compiler is installed"
        return None

    def network_for(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """Return the compiled network, which expects inputs such as `input_like` returns."""
        if shape != self.workload.example.shape:
            return self._compile(shape)
        return self.workload.compiled(self.name, self.precision, lambda: self._compile(shape))

    def input_like(self, images: Tensor, shape: torch.Size) -> Tensor:
        """Return a network input of this shape, with zeros in place of the images."""
        return self._eager.input_like(images, shape)

    def _prepare(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """Compile for a shape; in int8, compare with eager mode, because some kernels are wrong.

        If the logits differ, the shape falls back to the graph in eager mode, unless the shape is
        the example's.

        Raises:
            ValueError: the logits for the example's shape differ from the graph's.
        """
        run = partial(self._run, self.network_for(shape))
        if self.precision == "int8":
            images = self.workload.example[:1].expand(shape)
            found, expected = run(images), self._eager(images)
            error = ((found - expected).norm() / expected.norm()).item()
            if not error <= _INT8_TOLERANCE:
                if shape == self.workload.example.shape:
                    raise ValueError(f"the logits of the compiled network are off by {error:.0%}")
                return self._eager
        return run

    def _compile(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        example = self.workload.example
        images = torch.zeros(shape, dtype=example.dtype, device=example.device)
        with isolate_conversion():
            from torch._inductor import config
            from torch._inductor.utils import fresh_inductor_cache

            # These settings are not passed to torch.compile because its tracer would ignore them
            # and pass the weights as inputs, which cannot be frozen.
            with fresh_inductor_cache(), torch.no_grad(), config.patch(self.options):
                # Each compiled function is only called with one shape, layout and dtype. Guards
                # would trigger recompilation without freezing, for example if the thread count
                # changes.
                unguarded: dict[str, Any] = {
                    "guard_filter_fn": torch.compiler.skip_all_guards_unsafe
                }
                compiled = torch.compile(self._network(images), dynamic=False, options=unguarded)
                self._run(compiled, images)
        return compiled

    def _run(self, compiled: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        # Convolutions in bfloat16 and int8 are faster in channels-last memory format. Always copy:
        # images with one channel or one pixel may have different strides, and each set of strides
        # would trigger a recompilation. So would mixing inference tensors with normal ones.
        dtype = self._eager.dtype
        with torch.inference_mode():
            copied = torch.empty_like(
                images,
                dtype=dtype if images.is_floating_point() else images.dtype,
                memory_format=torch.channels_last,
            )
            copied.copy_(images)
        return compute_logits(compiled, copied, torch.channels_last, dtype)

    def _network(self, images: Tensor) -> nn.Module:
        """Return a new module, because torch.compile allows at most eight shapes per function."""
        if self.precision == "int8":
            return copy.deepcopy(self._eager.model)
        dtype = self._eager.dtype
        model = inference_copy(self.workload.fused)
        cast_for_inference(model, dtype)
        two = images.new_zeros(2, *images.shape[1:])
        two = two.to(dtype) if images.is_floating_point() else two
        return trace(model, two, free_size=False).module()
