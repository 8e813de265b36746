"""PyTorch's compiler: inductor, with the weights frozen into the code."""

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._tracing import converting, trace
from cnnarch.inference.engines._engine import Engine, Runner, Source
from cnnarch.inference.engines.eager import Eager, cast_for_inference, run_eagerly

__all__ = ["Inductor"]

_PATIENCE = 3  # calls with a shape before it is worth a minute of compiling
_OPTIONS: dict[str, Any] = {
    "freezing": True,
    "cpp_cache_precompile_headers": False,  # they would stay where all processes find them
}
_SHAPES = 8  # that are compiled at most


class Inductor(Engine):
    """`torch.compile` with freezing, for the example's shape.

    Another shape runs in eager at first; from the third call on with it, it is compiled too. The
    compiler's files are in a temporary folder, which goes as soon as the code is loaded; so it
    compiles anew in each process, as machine code from elsewhere is not to be trusted.
    """

    name = "inductor"
    precisions = ("float32", "bfloat16")

    def missing(self, precision: str, device: torch.device) -> str | None:  # noqa: ARG002
        """No compiler for the device's code."""
        with converting():  # importing these makes torch's cache folder
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

    def seconds(self, layers: int) -> float:
        """Compiling C++."""
        return 8 + 0.15 * layers

    def build(self, source: Source, precision: str) -> Runner:
        """Compile for the example's shape."""
        runner = _Runner(source, precision)
        runner.compile(source.example.shape)
        return runner


class _Runner:
    def __init__(self, source: Source, precision: str) -> None:
        self._source, self._dtype = source, getattr(torch, precision)
        self._eager = Eager().build(source, precision)
        self._compiled: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._calls: Counter[torch.Size] = Counter()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        compiled = self._compiled.get(images.shape)
        if compiled is None:
            compiled = self._when_worth_it(images.shape)
        if compiled is None:
            return self._eager(images)
        return run_eagerly(compiled, images, torch.contiguous_format, self._dtype)

    def parts(self) -> dict[str, bytes]:
        return {}

    def trim(self) -> None:
        pass  # another shape has been run in eager

    def close(self) -> None:
        self._compiled.clear()
        self._eager.close()

    def _when_worth_it(self, shape: torch.Size) -> Callable[[Tensor], Tensor] | None:
        with self._lock:
            self._calls[shape] += 1
            if self._calls[shape] < _PATIENCE or len(self._compiled) >= _SHAPES:
                return None
            if shape not in self._compiled:
                self.compile(shape)
            return self._compiled[shape]

    def compile(self, shape: torch.Size) -> None:
        """Compile for batches of images of this shape."""
        example = self._source.example
        images = torch.zeros(shape, dtype=example.dtype, device=example.device)
        dtype = self._dtype if example.is_floating_point() else example.dtype
        two = torch.zeros(2, *shape[1:], dtype=dtype, device=example.device)
        model = inference_copy(self._source.fused())
        cast_for_inference(model, self._dtype)
        with converting():
            from torch._inductor.utils import fresh_inductor_cache

            # A module of its own, as torch.compile gives each piece of code eight shapes in all.
            with fresh_inductor_cache(), torch.no_grad():
                module = trace(model, two, free_size=False).module()
                compiled = torch.compile(module, dynamic=False, options=_OPTIONS)
                run_eagerly(compiled, images, torch.contiguous_format, self._dtype)
        self._compiled[shape] = compiled
