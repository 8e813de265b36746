"""Try the engines and keep the fastest one whose output is correct."""

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from cnnarch.devices import out_of_memory
from cnnarch.inference._copies import inference_copy
from cnnarch.inference._measure import (
    agreement,
    alternate,
    describe_device,
    difference,
    free_unused,
    median_ms,
    spread,
    synchronize,
    tf32_uses,
    usable_threads,
    used_mib,
)
from cnnarch.inference._requests import (
    PRECISIONS,
    check_calibration,
    check_request,
    check_tolerance,
    default_tolerance,
)
from cnnarch.inference._tracing import default_device
from cnnarch.inference.engines import ENGINES, Engine, PlainEager, Workload
from cnnarch.inference.optimized import Optimized
from cnnarch.inference.report import Candidate, Report

CALLS = 4
"""Approximate number of calls per candidate: a slow first one, the check, and the timing."""

CALIBRATIONS = 3
"""Approximate number of passes over the int8 calibration images: two for ranges, one to check."""


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
    """Make a network as fast as possible on this machine, and check that its outputs still match.

    Each installed engine prepares a copy of the network. The copy's outputs for the example
    and a different batch size are compared with the network's. If they match, the engine is timed
    alternately with the fastest one so far, and the faster one is kept. `report` lists all engines.

    Args:
        model: any module that maps one batch of images to one Tensor; left unchanged.
        example: typical images, `(N, C, H, W)`, with your usual batch size, because the fastest
            engine depends on it; float32, or uint8 for a network fused with preprocessing. The
            network is optimized for the device of the example, which must be the model's.
        backend: "auto" tries all engines that run on the device. The name of an engine uses only
            that engine: "eager", "inductor"; on the CPU, "openvino", "onnxruntime"; on a CUDA GPU,
            "eager_contiguous", "cuda_graph", "cuda_graph_contiguous", "inductor_cuda_graph",
            "inductor_max_autotune".
        precision: the lowest allowed precision, "float32", "bfloat16", "float16" (on a GPU) or
            "int8" (on the CPU). Higher precisions are tried next, but float32 only if no engine so
            far takes less than half the time of the plain network, which is always a candidate.
        calibration: for int8: a few hundred images, or batches of images (or of images and labels),
            preprocessed for the network.
        tolerance: the largest allowed difference, relative to the largest logit: by default 1e-4 in
            float32 (1e-2 on a GPU that uses TF32), 3e-2 in bfloat16 and 1e-2 in float16. For int8,
            the fraction of calibration images whose top class may change, by default 0.05.
        budget_s: the time budget in seconds; a candidate that would probably exceed the remaining
            time is skipped.

    Returns:
        An `Optimized` network, which is called like the original.

    Raises:
        TypeError: an argument's type is wrong, or the model does not return a Tensor.
        ValueError: an argument is not as described above, the requested engine is not available, or
            the network's outputs are not one row of finite logits per image.
        RuntimeError: the requested engine failed, or its output was not correct.
        torch.OutOfMemoryError: the GPU has too little memory for the network and the example.
    """
    check_request(model, example, backend, precision, budget_s)
    with default_device(example.device):
        try:
            return _optimize(model, example, backend, precision, calibration, tolerance, budget_s)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, example) from error


def _optimize(
    model: nn.Module,
    example: Tensor,
    backend: str,
    precision: str,
    calibration: Tensor | Iterable[object] | None,
    tolerance: float | None,
    budget_s: float,
) -> Optimized:
    batches = check_calibration(calibration, example) if precision == "int8" else ()
    end = time.perf_counter() + budget_s
    copied = inference_copy(model).float()
    trial = _Trial(
        Workload(copied, example.detach().clone(), usable_threads(), batches),
        precision,
        check_tolerance(tolerance, precision, example.device),
        min(2.0, budget_s / 20),
        end,
    )
    plain = _run_plain(trial)
    if backend == "auto":
        entries = _try_all_engines(trial, plain)
    else:
        entries = _use_engine(ENGINES[backend], trial, plain)
    (engine,) = (entry.engine for entry in entries if entry.engine)
    trial.workload.free_intermediates()
    engine.free_other_shapes()
    report = Report(
        tuple(entry.candidate() for entry in entries),
        tuple(example.shape),
        trial.workload.threads,
        trial.tolerance,
        precision,
        (*trial.notes, *_describe_tf32(example.device)),
        describe_device(example.device),
    )
    return Optimized(engine, report)


@dataclass
class _Trial:
    """The settings for `optimize`, and the plain network's logits and times."""

    workload: Workload
    precision: str
    tolerance: float
    seconds: float  # how long to time two candidates
    end: float  # when the budget runs out
    logits: list[Tensor] = field(default_factory=list)  # for the example and for other images
    calibration_logits: list[Tensor] = field(default_factory=list)
    call_s: float = 0.0
    calibration_s: float = 0.0
    notes: tuple[str, ...] = ()


@dataclass
class _Entry:
    """A candidate and its measurements; `engine` is None once the candidate is ruled out."""

    kind: type[Engine]
    precision: str
    verdict: str = "chosen"
    times: list[float] = field(default_factory=list)
    memory: float | None = None
    difference: float | None = None
    agreement: float | None = None
    engine: Engine | None = None

    def candidate(self) -> Candidate:
        time = median_ms(self.times) if self.times else None
        measured = (self.memory, self.difference, self.agreement)
        return Candidate(self.kind.name, self.precision, self.verdict, time, *measured)

    def prepare(self, workload: Workload) -> Tensor:
        """Prepare the engine and return its logits for the example."""
        device = workload.example.device
        free_unused(device)
        before = used_mib(device)
        self.engine = self.kind(workload, self.precision)
        logits = self.run(workload.example)
        self.memory = max(0.0, used_mib(device) - before)
        return logits

    def run(self, images: Tensor) -> Tensor:
        assert self.engine is not None
        logits = self.engine(images)
        synchronize(images.device)
        return logits

    def drop(self, verdict: str) -> None:
        """Record why the candidate is not chosen, and free its engine."""
        self.verdict = verdict
        if self.engine is not None:
            self.engine.close()
        self.engine = None


def _run_plain(trial: _Trial) -> _Entry:
    """Run the plain network on all images used to compare the candidates."""
    plain, example = _Entry(PlainEager, "float32", difference=0.0), trial.workload.example
    start = time.perf_counter()
    trial.logits = [plain.prepare(trial.workload)]
    trial.call_s = time.perf_counter() - start
    _check_logits(trial.logits[0], example)
    if example.device.type != "cpu":  # the first call on a GPU loads libraries
        start = time.perf_counter()
        plain.run(example)
        trial.call_s = time.perf_counter() - start
    others = _other_images(example)
    trial.logits.append(plain.run(others))
    _check_logits(trial.logits[1], others)
    start = time.perf_counter()
    trial.calibration_logits = [plain.run(images) for images in trial.workload.calibration]
    trial.calibration_s = time.perf_counter() - start
    varies = spread(torch.cat(trial.logits))
    if varies <= (PRECISIONS["float32"] if trial.precision == "int8" else trial.tolerance):
        note = (
            f"The logits hardly depend on the images (relative variation {varies:.0e}), so "
            "agreement proves little. This is common with untrained networks."
        )
        trial.notes = (note,)
        warnings.warn(note, stacklevel=3)
    return plain


def _use_engine(kind: type[Engine], trial: _Trial, plain: _Entry) -> list[_Entry]:
    """Prepare the requested engine and time it alternately with the plain network."""
    entry = _Entry(kind, trial.precision)
    try:
        rejected = _check(entry, trial)
        if not rejected:
            _time(plain, entry, trial)
    except Exception as error:  # engines raise exceptions of any kind
        raise RuntimeError(f"{kind.name} failed: {error}") from error
    if rejected:
        raise RuntimeError(f"{kind.name} in {trial.precision} was {rejected}")
    plain.drop("for comparison")
    return [plain, entry]


def _try_all_engines(trial: _Trial, plain: _Entry) -> list[_Entry]:
    """Try the device's engines one after another; at most two are in memory at the same time.

    The requested precision comes first. On processors that support bfloat16, small networks run
    faster in bfloat16 than in int8. Float32 is rarely faster, so it is skipped if a lower-precision
    engine is much faster than the plain network.
    """
    best, entries = plain, [plain]
    higher = ["bfloat16", "float32"] if trial.precision == "int8" else ["float32"]
    for precision in dict.fromkeys([trial.precision, *higher]):
        much_faster = best is not plain and 2 * median_ms(best.times) < median_ms(plain.times)
        if precision == "float32" and much_faster:
            break
        for kind in ENGINES.values():
            if not kind.runs_on(trial.workload.example.device):
                continue
            entry = _Entry(kind, precision)
            entries.append(entry)
            try:
                rejected = _why_skipped(entry, trial, entries) or _check(entry, trial)
                if rejected:
                    entry.drop(rejected)
                    continue
                ratio = _time(best, entry, trial)
            except Exception as error:  # engines raise exceptions of any kind
                line = str(error).strip().partition("\n")[0]
                entry.drop(f"failed: {type(error).__name__}: {line:.100}")
                continue
            slower, best = (best, entry) if ratio < 1 else (entry, best)
            slower.drop(f"slower: {max(ratio, 1 / ratio):.2f}x")
    return entries


def _why_skipped(entry: _Entry, trial: _Trial, earlier: list[_Entry]) -> str:
    if entry.precision not in entry.kind.precisions:
        return f"unavailable: does not support {entry.precision}"
    if why := entry.kind.why_unavailable(entry.precision, trial.workload.example.device):
        return f"unavailable: {why}"
    if (needed := entry.kind.after) and not any(
        e.times and (e.kind.name, e.precision) == (needed, entry.precision) for e in earlier
    ):
        return f"not tried: {needed} was not tried or not correct"
    layers = sum(1 for m in trial.workload.model.modules() if not any(m.children()))
    fixed, per_layer = entry.kind.build_seconds
    seconds = fixed + per_layer * layers + CALLS * trial.call_s
    if entry.precision == "int8":
        seconds += CALIBRATIONS * trial.calibration_s
    left = max(0.0, trial.end - time.perf_counter())
    if seconds > left:
        return f"not tried: budget, {left:.0f} s left, about {seconds:.0f} s needed"
    return ""


def _check(entry: _Entry, trial: _Trial) -> str:
    """Prepare the engine; return why its output is rejected, or an empty string if it is correct.

    The example runs first, because an engine's later calls may differ from its first.
    """
    logits = [entry.prepare(trial.workload)]
    logits.append(entry.run(_other_images(trial.workload.example)))
    entry.difference = max(map(difference, logits, trial.logits))
    tolerance = trial.tolerance
    if entry.precision == "int8":
        found = [entry.run(images) for images in trial.workload.calibration]
        entry.agreement = agreement(found, trial.calibration_logits)
        right = entry.agreement >= 1 - tolerance
        return "" if right else f"rejected: top-1 agreement is below {1 - tolerance:.1%}"
    if entry.precision != trial.precision:
        tolerance = default_tolerance(entry.precision, trial.workload.example.device)
    right = entry.difference <= tolerance
    return "" if right else f"rejected: differs by more than {tolerance:.0e}"


def _time(first: _Entry, second: _Entry, trial: _Trial) -> float:
    """Time two candidates alternately; return the second one's time divided by the first one's."""
    first_call, second_call = (partial(e.run, trial.workload.example) for e in (first, second))
    spare = (trial.end - time.perf_counter()) / 4  # leaves time for the other engines
    times = alternate(first_call, second_call, trial.seconds, spare)
    first.times += times[0]
    second.times += times[1]
    return median_ms(times[1]) / median_ms(times[0])


def _other_images(example: Tensor) -> Tensor:
    """Return seeded noise as bright as the example, with a different batch size."""
    batch = 2 if len(example) == 1 else 1
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, *example.shape[1:], generator=generator, device="cpu")
    noise = noise.to(example.device)
    if example.dtype == torch.uint8:
        return (noise * 64 + 128).clamp(0, 255).to(example)
    deviation = example.std(correction=0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return (noise * deviation + example.mean()).to(example)


def _describe_tf32(device: torch.device) -> tuple[str, ...]:
    """Return a note on the float32 arithmetic of a CUDA GPU."""
    if device.type != "cuda":
        return ()
    uses = " and ".join(tf32_uses(device))
    text = f"used for {uses}, so float32 results may differ by up to" if uses else "off; allowed:"
    return (f"TF32 is {text} {default_tolerance('float32', device):.0e}.",)


def _check_logits(logits: Tensor, images: Tensor) -> None:
    if logits.dim() != 2 or len(logits) != len(images) or not logits.numel():
        got = f"shape {tuple(logits.shape)} for {len(images)} images"
        raise ValueError(f"the network must return one row of logits per image, got {got}")
    if not bool(logits.isfinite().all()):
        raise ValueError("the network returns NaN or infinity for the example")
