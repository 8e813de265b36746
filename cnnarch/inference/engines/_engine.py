"""The base class for engines, and the network and settings that they prepare."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.inference._tracing import trace
from cnnarch.inference.fuse import fuse

Parts: TypeAlias = Mapping[str, bytes]
"""The contents of the files that an engine created, by name."""

_OTHER_SIZES = 4  # how many image sizes an engine keeps prepared besides the example's


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

    @cached_property
    def fused(self) -> nn.Module:
        """The network with its norms folded, or unchanged if `fuse` does not support it."""
        try:
            return fuse(self.model)
        except ValueError:  # torch.fx cannot trace it, or hooks compute its weights
            return self.model

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
        """Free the calibration images, and the fused network and graph, which can be rebuilt."""
        self.calibration = ()
        for name in ("fused", "_example_program"):
            vars(self).pop(name, None)


class Engine(ABC):
    """A network prepared by an inference engine. Several threads may call it at the same time.

    Class attributes:
        precisions: the supported precisions.
        packages: packages whose versions determine whether saved files can be used.
        files: names of the files that it may create, which `parts` returns.
        keeps_graph: whether these files contain the whole network.
        build_seconds: the approximate time to prepare a network: a fixed part and a part per layer.

    Args:
        workload: the network, and the images to prepare for.
        precision: one of `precisions`.
        parts: the `parts` of an earlier instance, which then need not be created again.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    files: ClassVar[tuple[str, ...]] = ()
    keeps_graph: ClassVar[bool] = False
    build_seconds: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def __init__(self, workload: Workload, precision: str, parts: Parts | None = None) -> None:
        self.workload, self.precision = workload, precision
        self._parts = dict(parts or {})

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:  # noqa: ARG003
        """Return why one of the `precisions` cannot be used on this machine, or None."""
        return None

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
