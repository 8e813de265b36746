"""PyTorch's compiler: inductor, with the weights frozen into the code."""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._tracing import converting, trace
from cnnarch.inference.engines._engine import Engine, Runner, Source
from cnnarch.inference.engines._pt2e import calibrated_ranges, quantized
from cnnarch.inference.engines.eager import (
    Eager,
    cast_for_inference,
    run_eagerly,
    run_quantized,
)

__all__ = ["Inductor"]

_PATIENCE = 3  # calls with a shape before it is worth a minute of compiling
_OPTIONS: dict[str, Any] = {
    "freezing": True,
    "cpp_cache_precompile_headers": False,  # they would stay where all processes find them
}
_KERNELS_AGREE = 0.05  # of the norm of the logits
_SHAPES = 8  # that are compiled at most


class Inductor(Engine):
    """`torch.compile` with freezing, for the example's shape.

    Another shape runs in eager at first; from the third call on with it, it is compiled too. The
    compiler's files are in a temporary folder, which goes as soon as the code is loaded; so it
    compiles anew in each process, as machine code from elsewhere is not to be trusted. In int8
    the ranges of the maps are kept, so that a new process needs no calibration images.
    """

    name = "inductor"
    precisions = ("float32", "bfloat16", "int8")
    packages = ("torch", "torchao")

    def missing(self, precision: str, device: torch.device) -> str | None:
        """No compiler for the device's code, or nothing that quantises for it."""
        if precision == "int8" and device.type != "cpu":
            return f"computes in int8 on the CPU, the example is on {device.type}"
        if precision == "int8" and find_spec("torchao") is None:
            return "torchao is not installed: pip install 'cnnarch[export]'"
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
        """Calibrate for int8, and compile for the example's shape."""
        ranges = calibrated_ranges(source) if precision == "int8" else {}
        return self.restore(source, precision, ranges)

    def restore(self, source: Source, precision: str, parts: Mapping[str, bytes]) -> Runner:
        """Compile for the example's shape, in int8 with the ranges that were kept."""
        runner = _Int8Runner(source, parts) if precision == "int8" else _Runner(source, precision)
        runner.compile(source.example.shape)
        return runner


class _Runner:
    def __init__(self, source: Source, precision: str) -> None:
        self._source, self._dtype = source, getattr(torch, precision)
        self._eager = Eager().build(source, precision)
        self._start()

    def _start(self) -> None:
        self._compiled: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._calls: Counter[torch.Size] = Counter()
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        compiled = self._compiled.get(images.shape)
        if compiled is None:
            compiled = self._when_worth_it(images.shape)
        if compiled is None:
            return self._eager(images)
        return self._run(compiled, images)

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
        with converting():
            from torch._inductor import config
            from torch._inductor.utils import fresh_inductor_cache

            # Not as options of torch.compile: what traces the module would not know of them, and
            # hand the weights over as inputs, which cannot be frozen.
            with fresh_inductor_cache(), torch.no_grad(), config.patch(_OPTIONS):
                # Each piece of code gets one shape, layout and type only. Guards would compile
                # again, unfrozen, when somebody changes the number of threads, for example.
                unguarded: dict[str, Any] = {
                    "guard_filter_fn": torch.compiler.skip_all_guards_unsafe
                }
                compiled = torch.compile(self._module(images), dynamic=False, options=unguarded)
                self._run(compiled, images)
        self._compiled[shape] = compiled

    def _run(self, compiled: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        # Channels last, which convolutions in bfloat16 and int8 are faster from. Always copied, as
        # images of one channel or pixel may come with other strides, each of which would compile.
        # So would inference tensors after others: it is always one, whatever mode the caller has.
        dtype = self._dtype if images.is_floating_point() else images.dtype
        with torch.inference_mode():
            laid = torch.empty_like(images, dtype=dtype, memory_format=torch.channels_last)
            laid.copy_(images)
        return run_eagerly(compiled, laid, torch.channels_last, self._dtype)

    def _module(self, images: Tensor) -> nn.Module:
        """A module of its own, as torch.compile gives each piece of code eight shapes in all."""
        model = inference_copy(self._source.fused())
        cast_for_inference(model, self._dtype)
        dtype = self._dtype if images.is_floating_point() else images.dtype
        two = torch.zeros(2, *images.shape[1:], dtype=dtype, device=images.device)
        return trace(model, two, free_size=False).module()


class _Int8Runner(_Runner):
    def __init__(self, source: Source, parts: Mapping[str, bytes]) -> None:
        self._source, self._dtype = source, torch.float32
        self._parts = dict(parts)
        self._graph = quantized(source, parts)
        self._eager = run_quantized(self._graph, parts)
        self._start()

    def __call__(self, images: Tensor) -> Tensor:
        self._source.check_calibrated(images.shape[1:])
        return super().__call__(images)

    def parts(self) -> dict[str, bytes]:
        return self._parts

    def close(self) -> None:
        super().close()
        del self._graph

    def compile(self, shape: torch.Size) -> None:
        """Compile, and compare with the graph: some of the kernels do not compute what it says.

        Another shape than the example's then stays with the graph.

        Raises:
            ValueError: the logits for the example differ from those of the graph.
        """
        super().compile(shape)
        images = self._source.example[:1].expand(shape)
        found, expected = self._run(self._compiled[shape], images), self._eager(images)
        error = ((found - expected).norm() / expected.norm()).item()
        if error <= _KERNELS_AGREE:
            return
        self._compiled[shape] = self._eager
        if shape == self._source.example.shape:
            raise ValueError(f"the compiled int8 network is {error:.0%} off its own graph")

    def _module(self, images: Tensor) -> nn.Module:  # noqa: ARG002
        return copy.deepcopy(self._graph)
