"""What every engine has in common, and what each needs of the network."""

import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from cnnarch.inference._tracing import trace
from cnnarch.inference.fuse import fuse

__all__ = ["BySize", "Engine", "Runner", "Source"]

Made = TypeVar("Made")

_SIZES = 4  # image sizes beside the example's that an engine keeps ready


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
    depends on; `whole` says whether `Runner.parts` are all that it needs to run again.
    """

    name: str
    precisions: tuple[str, ...] = ("float32",)
    packages: tuple[str, ...] = ("torch",)
    whole: bool = False

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


class Source:
    """A network, and what several engines make of it on the way.

    Args:
        model: in eval mode, used by nothing else.
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
        if not mine:
            with torch.no_grad():
                self.model(images[:1])  # says it better where it does not take this size
        program = trace(self.fused(), images, free_size=False)
        if mine:
            self._program = program
        return program

    def check_calibrated(self, size: torch.Size) -> None:
        """Raise ValueError for images `(C, H, W)` of another size than was calibrated for int8."""
        mine = tuple(self.example.shape[1:])
        if tuple(size) != mine:
            raise ValueError(
                f"int8 was calibrated for images {mine}, got {tuple(size)}: "
                "optimize again with an example and calibration images of that size"
            )

    def forget(self) -> None:
        """Give back what can be made again: the fused network and its graph."""
        self._fused = self._program = None


class BySize(Generic[Made]):
    """What an engine makes ready for image sizes `(C, H, W)` when they first come, a few of them.

    The least recently used goes when there are too many.
    """

    def __init__(self, source: Source, make: Callable[[torch.Size], Made]) -> None:
        self._source, self._make = source, make
        self._made: OrderedDict[torch.Size, Made] = OrderedDict()

    def __getitem__(self, size: torch.Size) -> Made:
        with self._source.lock:
            if size not in self._made:
                self._made[size] = self._make(size)
                if len(self._made) > _SIZES:
                    self._made.popitem(last=False)
            self._made.move_to_end(size)
            return self._made[size]

    def clear(self) -> None:
        """Give all of it back."""
        self._made.clear()
