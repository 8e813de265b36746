"""What the processor has, threads, seconds, memory and differences."""

import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "agreement",
    "alternate",
    "difference",
    "has_vnni",
    "milliseconds",
    "resident",
    "spread",
    "usable_threads",
]

_CGROUP = Path("/sys/fs/cgroup")
_NEAR = 1.25  # one call of each does not tell which is faster where they are nearer than this


def has_vnni() -> bool:
    """Whether the processor sums products of 8-bit integers in 32 bits."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(has.get(flag) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))


def usable_threads() -> int:
    """PyTorch's number of threads, or fewer where the process may not use so many cores."""
    limits = [torch.get_num_threads()]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = _cgroup_cores(_CGROUP)
    return min([*limits, quota] if quota else limits)


def _cgroup_cores(root: Path) -> int | None:
    """Cores that the control group grants (version 2, then 1), rounded up; None if no limit."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or "max"
        return None


def resident() -> float:
    """MiB of memory that this process has in use."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:  # not Linux: the most it had so far, in KiB, on macOS in bytes
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 2**10


def alternate(
    first: Callable[[], object], second: Callable[[], object], seconds: float, spare: float = 0.0
) -> tuple[list[float], list[float]]:
    """Seconds of the calls of two candidates that take turns, so that drift hits both alike.

    A turn begins with a call that is not counted: it meets the other's data in the caches and the
    other's threads still spinning, which made OpenVINO's take half as long again. Each candidate
    has at least three turns, and more until `seconds` have gone. Where one call of both takes more
    than half as long, these calls are all; but if they are near each other and the time can be
    spared, each has two turns.

    Args:
        first: one candidate.
        second: the other.
        seconds: what the race is to take, about.
        spare: seconds that a race of long calls may take.
    """
    calls = (first, second)
    alone = [_seconds(call) for call in calls]
    if sum(alone) > seconds / 2:
        near = max(alone) < _NEAR * min(alone)
        if near and 4 * sum(alone) <= spare:
            return _rounds(calls, (1, 1), 2)
        return [alone[0]], [alone[1]]
    turns = tuple(max(1, min(20, int(0.02 / one))) for one in alone)
    return _rounds(calls, turns, 3, seconds)


def _rounds(
    calls: Sequence[Callable[[], object]], turns: Sequence[int], least: int, seconds: float = 0.0
) -> tuple[list[float], list[float]]:
    """At least so many rounds, in which each makes one call that does not count, then its turn."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < least * turns[0] or time.perf_counter() < end:
        for call, found, turn in zip(calls, times, turns, strict=True):
            call()
            found += [_seconds(call) for _ in range(turn)]
    return times


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def difference(actual: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest value expected; infinite where it says nothing.

    Where nothing but 0 was expected, every difference is infinite.
    """
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return math.inf
    largest = (actual.double() - expected.double()).abs().max().item()
    scale = expected.abs().max().item()
    return largest / scale if scale else (math.inf if largest else 0.0)


def spread(logits: Tensor) -> float:
    """How much the logits vary from image to image, relative to the largest."""
    scale = logits.abs().max().item()
    return (logits - logits[:1]).abs().max().item() / scale if scale else 0.0


def agreement(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Share of the images whose top classes are the same; a NaN is no class."""
    same = [
        (a.argmax(1) == e.argmax(1)) & a.isfinite().all(1)
        for a, e in zip(actual, expected, strict=True)
    ]
    return torch.cat(same).double().mean().item()


def milliseconds(times: Sequence[float]) -> float:
    """The median of seconds, in milliseconds."""
    return statistics.median(times) * 1e3
