"""Try the engines, keep the fastest whose output is right."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cnnarch.inference._copies import inference_copy
from cnnarch.inference._measure import (
    agreement,
    alternate,
    difference,
    milliseconds,
    resident,
    spread,
    usable_threads,
)
from cnnarch.inference._requests import PRECISIONS, Request, check_request
from cnnarch.inference.engines import ENGINES, PLAIN, Engine, Runner, Source
from cnnarch.inference.optimized import Optimized
from cnnarch.inference.report import Candidate, Report

__all__ = ["optimize"]

CALLS = 4
"""Runs of the network that a candidate takes, about: a slow first one, which is judged, a race."""

CALIBRATIONS = 3
"""Runs of the calibration images that int8 takes, about: two to see ranges, one to be judged."""


def optimize(
    model: nn.Module,
    example: Tensor,
    *,
    backend: str = "auto",
    precision: str = "float32",
    calibration: Tensor | Iterable[object] | None = None,
    tolerance: float | None = None,
    budget_s: float = 60,
) -> Optimized:
    """Make a network as fast as this machine can run it, and prove that it is the same network.

    Each engine that is installed makes a copy of the network ready. Its output is compared with
    the network's own for the example and for another batch size; if it is right, it runs in turns
    with the fastest so far. The faster stays. `report` shows all of them.

    Args:
        model: any module that takes one batch of images and gives one Tensor; stays as it is.
        example: images like those to come, `(N, C, H, W)`: N as large as the usual batch, as what
            is fastest depends on it; float32, or uint8 for a network fused with pre-processing.
            Where the example and the model are on a GPU, eager and inductor are tried.
        backend: "auto" tries all; "eager", "inductor", "openvino" or "onnxruntime" takes that one.
        precision: "float32", "bfloat16" or "int8", the lowest that is allowed. After int8 comes
            bfloat16, and float32 unless the best so far takes less than half the time of the
            plain network, which is among the candidates always.
        calibration: for int8: images, or batches of images (or of images and labels), prepared
            as for the network; some hundreds.
        tolerance: the largest difference allowed, relative to the largest logit: 1e-4 in float32,
            3e-2 in bfloat16. For int8 the share of the calibration images whose top class may
            change, 0.05.
        budget_s: seconds; a candidate that would probably not fit in what is left is not tried.

    Returns:
        What is called like the network: `Optimized`.

    Raises:
        TypeError: the model is not a module or gives no Tensor, or the example is not a Tensor.
        ValueError: another argument is not as above, the engine asked for is not here, or the
            network gives NaN for the example.
        RuntimeError: the engine asked for failed, or its output was not right.
    """
    request = check_request(model, example, backend, precision, calibration, tolerance, budget_s)
    source = Source(_own(model), example.detach().clone(), usable_threads(), request.calibration)
    return _Trial(source, request).optimized()


def _own(model: nn.Module) -> nn.Module:
    """A copy in float32, which is what the candidates are judged by."""
    copy = inference_copy(model)
    return copy.float() if {p.dtype for p in copy.parameters()} - {torch.float32} else copy


@dataclass
class _Entry:
    """A candidate while it competes."""

    engine: Engine
    precision: str
    verdict: str = ""
    times: list[float] = field(default_factory=list)
    memory: float | None = None
    difference: float | None = None
    agreement: float | None = None
    runner: Runner | None = None

    def row(self) -> Candidate:
        time = milliseconds(self.times) if self.times else None
        judged = (self.memory, self.difference, self.agreement)
        return Candidate(self.engine.name, self.precision, self.verdict, time, *judged)


class _Trial:
    """Candidates compete one after the other; no more than two are kept in memory."""

    def __init__(self, source: Source, request: Request) -> None:
        self.source, self.request = source, request
        self.end = time.perf_counter() + request.budget_s
        self.others = _others(source.example)
        self.entries: list[_Entry] = []
        self.notes: list[str] = []
        self.best, logits = self._plain()
        _check_logits(logits, source.example)
        self.expected = [logits, self._run(self.best, self.others)]
        _check_logits(self.expected[1], self.others)
        start = time.perf_counter()
        self.classes = [self._run(self.best, images) for images in request.calibration]
        self.calibration_s = time.perf_counter() - start
        self._note_dead_logits()

    def optimized(self) -> Optimized:
        """Try what was asked for; the best of it."""
        wanted = self.request.precision
        if self.request.named:
            self._try(ENGINES[self.request.backend], wanted)
        else:
            for precision in self._precisions():
                for engine in ENGINES.values():
                    self._try(engine, precision)
        self.best.verdict = "chosen"
        self.source.forget()
        self.source.calibration = ()
        report = Report(
            tuple(entry.row() for entry in self.entries),
            tuple(self.source.example.shape),
            self.source.threads,
            self.request.tolerance,
            wanted,
            tuple(self.notes),
        )
        assert self.best.runner is not None
        self.best.runner.trim()
        best = (self.best.engine.name, self.best.precision, self.best.runner)
        return Optimized(self.source, *best, report)

    def _precisions(self) -> Iterator[str]:
        """What was asked for, and then those above it that may be faster still.

        On processors for bfloat16 small networks are faster in it than in int8. Float32 is not,
        unless the engines of the lower precision are none for this machine.
        """
        wanted = self.request.precision
        yield wanted
        if wanted == "int8":
            yield "bfloat16"
        if wanted != "float32" and not self._much_faster_than_plain():
            yield "float32"

    def _much_faster_than_plain(self) -> bool:
        plain, best = self.entries[0], self.best
        return best is not plain and 2 * milliseconds(best.times) < milliseconds(plain.times)

    def _plain(self) -> tuple[_Entry, Tensor]:
        """The network as it was given, and its logits for the example."""
        entry = _Entry(PLAIN, "float32", difference=0.0)
        before = resident()
        entry.runner = PLAIN.build(self.source, "float32")
        start = time.perf_counter()
        logits = entry.runner(self.source.example)
        self.call_s = time.perf_counter() - start
        entry.memory = max(0.0, resident() - before)
        self.entries.append(entry)
        return entry, logits

    def _try(self, engine: Engine, precision: str) -> None:
        entry = _Entry(engine, precision)
        self.entries.append(entry)
        entry.verdict = self._why_not(engine, precision) or ""
        if entry.verdict:
            return
        try:
            before = resident()
            entry.runner = engine.build(self.source, precision)
            logits = entry.runner(self.source.example)
            entry.memory = max(0.0, resident() - before)
            entry.verdict = self._judge(entry, logits)
            if not entry.verdict:
                self._race(entry)
                return
        except Exception as error:  # whatever an engine raises
            entry.verdict = f"failed: {_first_line(error)}"
            if self.request.named:
                raise RuntimeError(f"{engine.name} failed: {error}") from error
        if self.request.named:
            raise RuntimeError(f"{engine.name} in {precision} is {entry.verdict}")
        _drop(entry)

    def _why_not(self, engine: Engine, precision: str) -> str | None:
        if precision not in engine.precisions:
            return f"not here: has no {precision}"
        why = engine.missing(precision, self.source.example.device)
        if why:
            return f"not here: {why}"
        left = max(0.0, self.end - time.perf_counter())
        needed = engine.seconds(self.source.layers) + CALLS * self.call_s
        if precision == "int8":
            needed += CALIBRATIONS * self.calibration_s
        if not self.request.named and needed > left:
            return f"not tried: budget, {left:.0f} s are left and it needs about {needed:.0f} s"
        return None

    def _judge(self, entry: _Entry, logits: Tensor) -> str:
        """Why its output is not right, that for the example first; an empty string if it is."""
        tolerance = self.request.tolerance
        outputs = [logits, self._run(entry, self.others)]
        pairs = list(zip(outputs, self.expected, strict=True))
        entry.difference = max(difference(*pair) for pair in pairs)
        if entry.precision == "int8":
            classes = [self._run(entry, images) for images in self.request.calibration]
            entry.agreement = agreement(classes, self.classes)
            right = entry.agreement >= 1 - tolerance
            return "" if right else f"out: top-1 agrees on less than {1 - tolerance:.1%}"
        if entry.precision != self.request.precision:
            tolerance = PRECISIONS[entry.precision]
        return "" if entry.difference <= tolerance else f"out: differs by more than {tolerance:.0e}"

    def _race(self, entry: _Entry) -> None:
        """Let it run in turns with the best so far; the loser is dropped."""
        example, best = self.source.example, self.best
        first, second = best.runner, entry.runner
        assert first is not None
        assert second is not None
        seconds = min(2.0, self.request.budget_s / 20)
        spare = (self.end - time.perf_counter()) / 4  # leave time for the other engines
        times = alternate(_call(first, example), _call(second, example), seconds, spare)
        best.times += times[0]
        entry.times += times[1]
        ratio = milliseconds(times[1]) / milliseconds(times[0])
        if ratio < 1 or self.request.named:
            self.best, loser = entry, best
        else:
            loser = entry
        # In the race that it lost, which its median over all races need not show.
        slower = f"slower: {max(ratio, 1 / ratio):.2f}x"
        loser.verdict = "for comparison" if self.request.named else slower
        _drop(loser)

    def _run(self, entry: _Entry, images: Tensor) -> Tensor:
        assert entry.runner is not None
        return entry.runner(images)

    def _note_dead_logits(self) -> None:
        varies = spread(torch.cat(self.expected))
        int8 = self.request.precision == "int8"
        limit = PRECISIONS["float32"] if int8 else self.request.tolerance
        if varies <= limit:
            self.notes.append(
                f"The logits hardly depend on the images (they vary by {varies:.0e} of the "
                "largest), so agreement proves little; those of an untrained network often do not."
            )
            warnings.warn(self.notes[-1], stacklevel=4)


def _call(runner: Runner, images: Tensor) -> Callable[[], object]:
    """One call of it, to its end."""

    def on_gpu() -> None:
        runner(images)
        torch.cuda.synchronize(images.device)

    return on_gpu if images.is_cuda else lambda: runner(images)


def _drop(entry: _Entry) -> None:
    if entry.runner is not None:
        entry.runner.close()
    entry.runner = None


def _others(example: Tensor) -> Tensor:
    """Other images, in another batch size: seeded noise as bright as the example."""
    batch = 2 if len(example) == 1 else 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, *example.shape[1:], generator=generator)
    if example.dtype == torch.uint8:
        return (noise * 64 + 128).clamp(0, 255).to(example)
    return (noise * (example.std(correction=0) or 1.0) + example.mean()).to(example)


def _check_logits(logits: Tensor, images: Tensor) -> None:
    if logits.dim() != 2 or len(logits) != len(images) or not logits.numel():
        got = f"shape {tuple(logits.shape)} for {len(images)} images"
        raise ValueError(f"the network must give one row of logits for each image, got {got}")
    if not bool(logits.isfinite().all()):
        raise ValueError("the network gives NaN or infinity for the example")


def _first_line(error: Exception) -> str:
    line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {line:.100}"
