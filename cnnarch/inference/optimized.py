"""The network that `optimize` returns."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from cnnarch.devices import out_of_memory
from cnnarch.inference._measure import usable_threads
from cnnarch.inference._saving import save_optimized
from cnnarch.inference.engines import Engine, Parts, PlainEager, Workload, find_engine
from cnnarch.inference.report import Report

_forks = 0  # number of forks between the process that imported this module and this one
_instances: "WeakSet[Optimized]" = WeakSet()
_parents_engines: list[Engine] = []  # never freed: freeing could wait for the parent's threads
_adoption_lock = threading.Lock()


def _count_fork() -> None:
    global _forks, _adoption_lock
    _forks += 1
    _adoption_lock = threading.Lock()  # a parent's thread may have held the old lock
    _parents_engines.extend(each._engine for each in _instances)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Optimized:
    """A network that runs on the fastest engine and is called like the original network.

    Several threads may call it at the same time. It can be pickled, so it works in any kind of
    worker process. A spawned process prepares the engine from the files that the engine created,
    without converting the network again. A forked process lacks its parent's threads, so the engine
    is prepared again on the first call there. PyTorch then uses one thread, as in DataLoader
    workers, and eager replaces inductor, which cannot compile in a forked process. The same applies
    to a network that is unpickled or loaded in a forked process. On a GPU, CUDA graphs are recorded
    for at most four shapes that occur often; batches of other shapes run without a graph. CUDA does
    not work in forked processes: start workers with the method "spawn".

    Args:
        engine: the engine, prepared for the network.
        report: the candidates that were compared.

    Shape:
        (N, C, H, W) -> (N, num_classes), float32, for any N

    Raises:
        TypeError: the images are not a Tensor of the example's dtype.
        ValueError: the images are on a different device, or have a shape that is not accepted.
        RuntimeError: the network is closed.
        torch.OutOfMemoryError: the GPU has too little memory for the batch.
    """

    def __init__(self, engine: Engine, report: Report) -> None:
        self._workload, self._engine, self.report = engine.workload, engine, report
        self.backend, self.precision = engine.name, engine.precision
        self.preprocessing = getattr(self.model, "preprocessing", None)
        self.categories = getattr(self.model, "categories", None)
        self._closed, self._forks = False, _forks
        self._running, self._call_ended = 0, threading.Condition()
        _instances.add(self)

    def __call__(self, images: Tensor) -> Tensor:
        """Return logits in float32, in newly allocated memory and without gradients."""
        if not isinstance(images, Tensor) or images.dtype != self.example.dtype:
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a {self.example.dtype} Tensor, got {kind}")
        if images.device != self.example.device:
            raise ValueError(f"images must be on {self.example.device}, got {images.device}")
        calibrated, size = tuple(self.example.shape[1:]), tuple(images.shape[1:])
        if self.precision == "int8" and size != calibrated:
            raise ValueError(
                f"int8 was calibrated for images {calibrated}, got {size}: "
                "optimize again with an example and calibration images of that size"
            )
        with self._in_use():
            if images.dim() != 4 or not images.shape[0]:  # the network raises a clear error
                return PlainEager(self._workload, "float32")(images)
            try:
                return self._engine(images)
            except torch.OutOfMemoryError as error:
                raise out_of_memory(error, images) from error

    def close(self) -> None:
        """Wait for other threads' calls to finish, then free the engine's memory.

        Later calls raise an error. Closing the network more than once is allowed.
        """
        if self._forks != _forks:  # not yet called since the fork, so the engine is the parent's
            self._closed = True
            return
        with self._call_ended:
            closed, self._closed = self._closed, True
            self._call_ended.wait_for(lambda: not self._running)
            if not closed:
                self._engine.close()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder from which `load_optimized` can load the network without converting it.

        Raises:
            ValueError: neither the engine's files nor a cnnarch builder can restore the network, or
                `path` exists and was not written by `save`.
            RuntimeError: the network is closed.
        """
        save_optimized(self, path)

    def parts(self) -> dict[str, bytes]:
        """Return the contents of the files that the engine created, by name.

        Raises:
            RuntimeError: the network is closed.
        """
        with self._in_use():
            return self._engine.parts()

    @property
    def model(self) -> nn.Module:
        """The original network in eval mode, which must not be changed."""
        return self._workload.model

    @property
    def example(self) -> Tensor:
        """Images of the shape for which the engine is prepared."""
        return self._workload.example

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the engine open during a call; in a forked process, prepare it again first."""
        if self._forks != _forks:
            self._adopt()
        with self._call_ended:
            if self._closed:
                raise RuntimeError("this network is closed")
            self._running += 1
        try:
            yield
        finally:
            with self._call_ended:
                self._running -= 1
                self._call_ended.notify_all()

    def _adopt(self) -> None:
        with _adoption_lock:
            if self._forks == _forks:
                return
            self._running, self._call_ended = 0, threading.Condition()
            self._workload.threads = usable_threads()
            if not self._closed:
                parts = self._engine.parts()
                self._engine = _restore_engine(self._workload, self.backend, self.precision, parts)
                self.backend = self._engine.name
            self._forks = _forks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.backend, self.precision, self.report)
        return restore, (self.model, self.example, *facts, self.parts())

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"Optimized({kind}, backend={self.backend!r}, precision={self.precision!r})"


def restore(
    model: nn.Module,
    example: Tensor,
    engine: str,
    precision: str,
    report: Report,
    parts: Parts,
) -> Optimized:
    """Restore an optimized network from the files that its engine created."""
    workload = Workload(model, example, usable_threads())
    return Optimized(_restore_engine(workload, engine, precision, parts), report)


def _restore_engine(workload: Workload, name: str, precision: str, parts: Parts) -> Engine:
    if _forks:
        torch.set_num_threads(1)
        name = "eager" if name == "inductor" else name
    return find_engine(name)(workload, precision, parts)
