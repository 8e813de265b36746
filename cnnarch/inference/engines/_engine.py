"""What every engine has in common, and what each needs of the network."""

import os
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

__all__ = ["Engine", "Runner", "Source", "converting", "with_open_batch"]

_converting = threading.RLock()
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def _new_lock() -> None:
    global _converting
    _converting = threading.RLock()


if hasattr(os, "register_at_fork"):  # a thread that holds the lock is not there in a child
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def converting() -> Iterator[None]:
    """While exporters and compilers run: one at a time, what they write goes when they are done.

    They change the state of the whole process, and torch makes its cache where these variables
    say. Loaded code stays after its file has gone.
    """
    with _converting, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        before = {name: os.environ.get(name) for name in _CACHES}
        os.environ.update(dict.fromkeys(_CACHES, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


class Runner(Protocol):
    """A network made ready by an engine. Threads may call it at the same time."""

    def __call__(self, images: Tensor) -> Tensor:
        """Logits in float32, in memory of their own."""

    def parts(self) -> dict[str, bytes]:
        """What the engine made and need not make again: file name to content."""

    def trim(self) -> None:
        """Give back what was made ready for other shapes than the example's."""

    def close(self) -> None:
        """Give back what it holds; it is not called again."""


class Engine(ABC):
    """Something that runs networks.

    `precisions` are those it can compute in; `packages` those whose versions what it makes
    depends on.
    """

    name: str
    precisions: tuple[str, ...] = ("float32",)
    packages: tuple[str, ...] = ("torch",)

    def missing(self, precision: str, device: torch.device) -> str | None:  # noqa: ARG002
        """Why it cannot be used here in one of its precisions; None if it can."""
        return None

    def seconds(self, layers: int) -> float:  # noqa: ARG002
        """About how long `build` takes for a network of so many layers, to keep to a budget."""
        return 0.0

    @abstractmethod
    def build(self, source: "Source", precision: str) -> Runner:
        """Make the network ready for images like the source's example."""

    def restore(
        self,
        source: "Source",
        precision: str,
        parts: Mapping[str, bytes],  # noqa: ARG002
    ) -> Runner:
        """Make it ready again from `Runner.parts`, if it has any."""
        return self.build(source, precision)


def with_open_batch(model: nn.Module, images: Tensor) -> ExportedProgram:
    """The network as a graph for batches of any size of such images, of which there are two."""
    return torch.export.export(model, (images,), dynamic_shapes=({0: Dim.DYNAMIC},))


class Source:
    """A network, and what several engines make of it on the way.

    Args:
        model: in eval mode, and nobody else's.
        example: images like those that it is made ready for, on the model's device.
        threads: how many each engine may use.
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
        self.lock = threading.Lock()
        self._fused: nn.Module | None = None
        self._program: ExportedProgram | None = None

    @property
    def layers(self) -> int:
        """How many modules have no others in them."""
        return sum(1 for m in self.model.modules() if not any(m.children()))

    def fused(self) -> nn.Module:
        """The network with its norms folded, or as it is where it cannot be traced."""
        from cnnarch.inference.fuse import fuse

        if self._fused is None:
            try:
                self._fused = fuse(self.model)
            except ValueError:  # a network that torch.fx cannot trace, or with weights in hooks
                self._fused = self.model
        return self._fused

    def program(self, size: torch.Size) -> ExportedProgram:
        """The fused network as a graph for images `(C, H, W)` in batches of any size.

        That of the example's size is kept until `forget`, as two engines need it.
        """
        mine = size == self.example.shape[1:]
        if mine and self._program is not None:
            return self._program
        images = torch.zeros(2, *size, dtype=self.example.dtype, device=self.example.device)
        with converting(), torch.no_grad():
            if not mine:
                self.model(images[:1])  # says it better where it does not take this size
            program = with_open_batch(self.fused(), images)
        if mine:
            self._program = program
        return program

    def forget(self) -> None:
        """Give back what can be made again: the fused network and its graph."""
        self._fused = self._program = None
