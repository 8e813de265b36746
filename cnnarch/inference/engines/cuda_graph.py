"""Networks recorded in CUDA graphs: one launch starts all of a network's kernels."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from cnnarch.inference.engines._engine import EngineByShape, Parts, Workload
from cnnarch.inference.engines.eager import ContiguousEager, Eager
from cnnarch.inference.engines.inductor import Inductor

_WARMUP_CALLS = 3  # libraries choose kernels and allocate workspaces in the first calls


class CUDAGraphRecorder:
    """Records calls in CUDA graphs on a GPU, and replays one of them at a time.

    The graphs share the memory for intermediate maps, so they must not run at the same time.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, threading.Lock()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._last_call = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def record(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record a call; return a function that runs its kernels again, and its output.

        Raises:
            RuntimeError: the call waits for the GPU or does something else that cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        with self._lock, torch.cuda.device(self._device), _fastest_convolutions():
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(_WARMUP_CALLS):
                    call()
            torch.cuda.synchronize()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                output = call()
        return graph.replay, output

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Make other threads wait, and the GPU wait for the last call on any stream."""
        with self._lock:
            stream = torch.cuda.current_stream(self._device)
            stream.wait_event(self._last_call)
            try:
                yield
            finally:
                self._last_call.record(stream)


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """Let cuDNN measure its convolution algorithms, unless they must be deterministic."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = before or not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class CUDAGraph(EngineByShape):
    """Eager mode in channels-last format, recorded in a CUDA graph for each shape.

    A call copies the images into the graph's input, replays the graph, and copies the logits.
    Shapes that are not recorded run without a graph.

    Class attributes:
        inner: the engine whose computation is recorded.
        recorder: creates the object that records and replays the computation.
    """

    name = "cuda_graph"
    devices = ("cuda",)
    precisions = ("float32", "bfloat16", "float16")
    build_seconds = (1.0, 0.01)
    max_shapes = 4
    inner: ClassVar[type[Eager | Inductor]] = Eager
    recorder: ClassVar[Callable[[torch.device], Any]] = CUDAGraphRecorder

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        self._recorder = type(self).recorder(workload.example.device)
        super().__init__(workload, precision, parts, self.inner(workload, precision, parts))

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:
        """Return why the engine cannot be used on this machine, or None."""
        return super().why_unavailable(precision, device) or cls.inner.why_unavailable(
            precision, device
        )

    def _prepare(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        recorder, inner = self._recorder, self.without_preparing
        network, images = inner.network_for(shape), inner.input_like(self.workload.example, shape)

        def compute() -> Tensor:
            with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
                logits = network(images)
            if not isinstance(logits, Tensor):
                kind = type(logits).__name__
                raise TypeError(f"the network must return one Tensor, got {kind}")
            return logits

        try:
            replay, output = recorder.record(compute)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # CUDA, compilers and networks raise exceptions of any kind
            line = str(error).strip().partition("\n")[0]
            raise RuntimeError(f"it cannot be recorded in a CUDA graph: {line}") from error

        def run(given: Tensor) -> Tensor:
            with recorder.exclusive():
                with torch.inference_mode():
                    images.copy_(given)
                replay()
                return output.to(torch.float32, copy=True)

        return run


class ContiguousCUDAGraph(CUDAGraph):
    """Eager mode in the contiguous memory format, recorded in CUDA graphs."""

    name = "cuda_graph_contiguous"
    inner = ContiguousEager


class InductorCUDAGraph(CUDAGraph):
    """`torch.compile`, recorded in CUDA graphs."""

    name = "inductor_cuda_graph"
    packages = Inductor.packages
    after = "inductor"  # which has compiled the network
    inner = Inductor


class _AutotunedInductor(Inductor):
    """`torch.compile` with kernels that are chosen by measuring many variants."""

    name = "autotuned"
    options: ClassVar[dict[str, Any]] = {
        **Inductor.options,
        "max_autotune": True,
        "coordinate_descent_tuning": True,
    }


class AutotunedCUDAGraph(CUDAGraph):
    """`torch.compile` with measured kernels (max-autotune), recorded in CUDA graphs."""

    name = "inductor_max_autotune"
    packages = Inductor.packages
    after = "inductor"
    build_seconds = (30.0, 0.6)
    inner = _AutotunedInductor
