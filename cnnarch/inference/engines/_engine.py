"""The base class for engines, and the network and settings that they prepare."""

import threading
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._tracing import default_device, trace
from cnnarch.inference.fuse import fuse
from cnnarch.inference.reparameterize import merge_all_branches

Parts: TypeAlias = Mapping[str, bytes]
"""The contents of the files that an engine created, by name."""

_OTHER_SIZES = 4  # how many image sizes an engine keeps prepared besides the example's
_CALLS_BEFORE_PREPARING = 3  # with the same shape, because compiling can take minutes
_DEVICES = {"cpu": "the CPU", "cuda": "CUDA GPUs"}


class Workload:
    """A network to run, and intermediate forms of it that several engines need.

    Args:
        model: the network in eval mode; no other code may use it.
        example: images of the shape to prepare for, on the model's device.
        threads: the number of threads that each engine may use.
        calibration: batches of images, for int8.
    """

    def __init__(
        self,
        model: nn.Module,
        example: Tensor,
        threads: int,
        calibration: Sequence[Tensor] = (),
    ) -> None:
        self.model = model
        self.example = example
        self.threads = threads
        self.calibration = calibration
        self._last_compiled: dict[tuple[str, str], Any] = {}

    def compiled(self, engine: str, precision: str, compile: Callable[[], Any]) -> Any:
        """Return a network compiled for the example, which the next engine may also use."""
        key = (engine, precision)
        if key not in self._last_compiled:
            self._last_compiled = {key: compile()}
        return self._last_compiled[key]

    @cached_property
    def fused(self) -> nn.Module:
        """The network with its norms folded, or only its branches if `fuse` does not support it."""
        try:
            return fuse(self.model)
        except ValueError:  # torch.fx cannot trace it
            with torch.no_grad():
                return merge_all_branches(inference_copy(self.model, share=True))

    @cached_property
    def _example_program(self) -> ExportedProgram:
        return self._trace(self.example.shape[1:])

    def program(self, size: torch.Size) -> ExportedProgram:
        """Return the fused network as a graph for images `(C, H, W)` in batches of any size."""
        is_example_size = size == self.example.shape[1:]  # cached: two engines need it
        return self._example_program if is_example_size else self._trace(size)

    def _trace(self, size: torch.Size) -> ExportedProgram:
        images = self.example.new_zeros(2, *size)
        if size != self.example.shape[1:]:
            with torch.no_grad():
                self.model(images[:1])  # raises a clearer error for an unsupported size
        return trace(self.fused, images, free_size=False)

    def free_intermediates(self) -> None:
        """Free the calibration images, and what can be rebuilt: networks, graphs, compiled code."""
        self.calibration = ()
        self._last_compiled.clear()
        for name in ("fused", "_example_program"):
            vars(self).pop(name, None)


class Engine(ABC):
    """A network prepared by an inference engine. Several threads may call it at the same time.

    Class attributes:
        devices: the types of devices on which it runs; empty if it runs on any.
        precisions: the supported precisions.
        packages: packages whose versions determine whether saved files can be used.
        files: names of the files that it may create, which `parts` returns.
        keeps_graph: whether these files contain the whole network.
        build_seconds: the approximate time to prepare a network: a fixed part and a part per layer.
        after: `optimize` only tries it if the engine with this name was correct.

    Args:
        workload: the network, and the images to prepare for.
        precision: one of `precisions`.
        parts: the `parts` of an earlier instance, which then need not be created again.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    files: ClassVar[tuple[str, ...]] = ()
    keeps_graph: ClassVar[bool] = False
    build_seconds: ClassVar[tuple[float, float]] = (0.0, 0.0)
    after: ClassVar[str | None] = None

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        self.workload, self.precision = workload, precision
        self._parts = dict(parts or {})

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:
        """Return why one of the `precisions` cannot be used on this machine, or None."""
        if not cls.runs_on(device):
            places = " and ".join(_DEVICES[name] for name in cls.devices)
            return f"only runs on {places}, the example is on {device.type}"
        if precision == "float16" and device.type == "cpu":
            return "float16 only runs on GPUs, the example is on cpu"
        if precision == "int8" and device.type != "cpu":
            return f"int8 only runs on the CPU, the example is on {device.type}"
        return None

    @classmethod
    def runs_on(cls, device: torch.device) -> bool:
        """Return whether the engine runs on this type of device."""
        return not cls.devices or device.type in cls.devices

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return logits in float32, in newly allocated memory."""

    def parts(self) -> dict[str, bytes]:
        """Return the contents of the files that the engine created, by name."""
        return self._parts

    def free_other_shapes(self) -> None:  # noqa: B027
        """Free the resources prepared for shapes other than the example's."""

    def close(self) -> None:
        """Free all memory. The engine must not be called afterwards."""
        vars(self).clear()


class EngineBySize(Engine):
    """An engine that prepares the network for an image size `(C, H, W)` on its first use.

    The most recently used sizes are kept.
    """

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        super().__init__(workload, precision, parts)
        self._lock = threading.Lock()
        self._cached: Any = lru_cache(_OTHER_SIZES)(self._prepare)

    @abstractmethod
    def _prepare(self, size: torch.Size) -> Callable[[Tensor], Tensor]:
        """Prepare the network for images of this size."""

    def _for_size(self, size: torch.Size) -> Callable[[Tensor], Tensor]:
        with self._lock:
            return self._cached(size)

    def free_other_shapes(self) -> None:
        self._cached.cache_clear()


class EngineByShape(Engine):
    """An engine that prepares the network for a shape `(N, C, H, W)`, first for the example's.

    Any other shape runs without preparation for two calls and is prepared on the third. If that
    fails, a warning says so and the shape keeps running without it.

    Class attributes:
        max_shapes: maximum number of shapes to prepare; further shapes run without preparation.

    Args:
        workload: the network, and the images to prepare for.
        precision: one of `precisions`.
        parts: the `parts` of an earlier instance.
        without_preparing: an engine that runs the network for any shape.
    """

    max_shapes: ClassVar[int] = 8

    def __init__(
        self, workload: Workload, precision: str, parts: Parts | None, without_preparing: Any
    ) -> None:
        super().__init__(workload, precision, parts)
        self.without_preparing = without_preparing
        self._prepared: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._calls: Counter[torch.Size] = Counter()
        self._lock = threading.Lock()
        self._prepared[workload.example.shape] = self._prepare(workload.example.shape)

    @abstractmethod
    def _prepare(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        """Prepare the network for images of this shape."""

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits for images of any size that the network accepts."""
        run = self._prepared.get(images.shape) or self._prepare_if_frequent(images.shape)
        return run(images)

    def _prepare_if_frequent(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        with self._lock:
            self._calls[shape] += 1
            is_frequent = self._calls[shape] >= _CALLS_BEFORE_PREPARING
            if shape not in self._prepared and is_frequent and self._has_room():
                self._prepared[shape] = self._prepare_or_warn(shape)
            return self._prepared.get(shape, self.without_preparing)

    def _has_room(self) -> bool:
        return len(self._prepared) < self.max_shapes

    def _prepare_or_warn(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        try:
            with default_device(self.workload.example.device):
                return self._prepare(shape)
        except Exception as error:  # compilers raise exceptions of any kind
            line = str(error).strip().partition("\n")[0]
            warnings.warn(
                f"{self.name} cannot be prepared for images of shape {tuple(shape)}, which run in "
                f"{self.without_preparing.name} instead: {type(error).__name__}: {line}",
                stacklevel=5,
            )
            return self.without_preparing

    def free_other_shapes(self) -> None:
        example = self.workload.example.shape
        self._prepared = {example: self._prepared[example]}
        self._calls.clear()
        self.without_preparing.free_other_shapes()
