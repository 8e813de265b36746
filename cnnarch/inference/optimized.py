"""The network that `optimize` gives back."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn

from cnnarch.inference._measure import usable_threads
from cnnarch.inference._saving import save_optimized
from cnnarch.inference.engines import ENGINES, PLAIN, Runner, Source
from cnnarch.inference.report import Report

__all__ = ["Optimized", "make_ready"]

_forks = 0  # of this process from the one that imported this
_living: "WeakSet[Optimized]" = WeakSet()
_abandoned: list[Runner] = []  # of the parents: to take them down could wait for threads not there
_adopting = threading.Lock()


def _count_fork() -> None:
    global _forks, _adopting
    _forks += 1
    _adopting = threading.Lock()  # no thread is left to open the parent's
    _abandoned.extend(each._runner for each in _living)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_count_fork)


class Optimized:
    """A network that runs on the engine that was fastest; used like the network.

    Threads may share it. It can be pickled, so workers of any kind get one: a spawned one makes
    the engine ready from what is kept, without converting. A forked one must not use the threads
    of its parent, which are not there; so PyTorch computes with one thread in it, as in
    DataLoader's workers, the engine is made ready again at the first call, and inductor, which
    cannot compile there, leaves the place to eager. So it is where a forked process unpickles or
    loads one.

    Args:
        source: the network.
        engine: its name.
        precision: it computes in.
        runner: the network as the engine made it ready.
        report: of the candidates.

    Shape:
        as the network: (N, C, H, W) -> (N, num_classes), float32, N as you like

    Raises:
        TypeError: images are not a Tensor of the example's dtype.
        ValueError: they are on another device, or the network refuses their shape.
        RuntimeError: it is closed.
    """

    def __init__(
        self, source: Source, engine: str, precision: str, runner: Runner, report: Report
    ) -> None:
        self._source, self._runner = source, runner
        self.backend, self.precision, self.report = engine, precision, report
        self.preprocessing = getattr(source.model, "preprocessing", None)
        self.categories = getattr(source.model, "categories", None)
        self._dtype, self._device = source.example.dtype, source.example.device
        self._closed, self._forks = False, _forks
        self._running, self._idle = 0, threading.Condition()
        _living.add(self)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits, in float32 and in memory of their own; gradients do not flow."""
        if not isinstance(images, Tensor) or images.dtype != self._dtype:
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"images must be a {self._dtype} Tensor, got {kind}")
        if images.device != self._device:
            raise ValueError(f"images must be on {self._device}, got {images.device}")
        with self._in_use():
            if images.dim() != 4 or not images.shape[0]:
                return PLAIN.build(self._source, "float32")(images)  # says what is wrong with it
            return self._runner(images)

    def close(self) -> None:
        """Give back the engine's memory once the calls of other threads have ended.

        Further calls raise. It may be closed twice.
        """
        if self._forks != _forks:  # before its first call in a fork: the engine is the parent's
            self._closed = True
            return
        with self._idle:
            closed, self._closed = self._closed, True
            self._idle.wait_for(lambda: not self._running)
            if not closed:
                self._runner.close()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what a new process needs to start at once; `load_optimized` reads it.

        Raises:
            ValueError: neither the engine nor a builder of cnnarch could make it again.
            RuntimeError: it is closed.
        """
        save_optimized(self, path)

    def parts(self) -> dict[str, bytes]:
        """What the engine made: file name to content.

        Raises:
            RuntimeError: it is closed.
        """
        with self._in_use():
            return self._runner.parts()

    @property
    def model(self) -> nn.Module:
        """The network as it was given, in eval mode; not to be changed."""
        return self._source.model

    @property
    def example(self) -> Tensor:
        """Images like those it was made ready for."""
        return self._source.example

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """While this lasts it is not closed."""
        if self._forks != _forks:
            self._adopt()
        with self._idle:
            if self._closed:
                raise RuntimeError("this network is closed")
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _adopt(self) -> None:
        """Make the engine ready in a process that was forked off."""
        with _adopting:
            if self._forks == _forks:
                return
            self._running, self._idle = 0, threading.Condition()
            self._source.lock = threading.Lock()
            self._source.threads = usable_threads()
            if not self._closed:
                parts = self._runner.parts()
                self.backend, self._runner = make_ready(
                    self._source, self.backend, self.precision, parts
                )
            self._forks = _forks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        source = self._source
        facts = (self.backend, self.precision, self.report)
        return _unpickle, (source.model, source.example, *facts, self.parts())

    def __repr__(self) -> str:
        kind = type(self._source.model).__name__
        return f"Optimized({kind}, backend={self.backend!r}, precision={self.precision!r})"


def make_ready(
    source: Source, engine: str, precision: str, parts: Mapping[str, bytes]
) -> tuple[str, Runner]:
    """An engine with what is kept of it, and its name: in a forked process eager for inductor."""
    if _forks:
        torch.set_num_threads(1)
        engine = "eager" if engine == "inductor" else engine
    return engine, {**ENGINES, PLAIN.name: PLAIN}[engine].restore(source, precision, parts)


def _unpickle(
    model: nn.Module,
    example: Tensor,
    engine: str,
    precision: str,
    report: Report,
    parts: Mapping[str, bytes],
) -> Optimized:
    source = Source(model, example, usable_threads())
    engine, runner = make_ready(source, engine, precision, parts)
    return Optimized(source, engine, precision, runner, report)
