"""Measure thread counts, times, memory use, and differences between logits."""

import gc
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

_CGROUP = Path("/sys/fs/cgroup")
_CLOSE = 1.25  # below this ratio, one call each cannot show which is faster


def has_vnni() -> bool:
    """Return whether the processor can sum products of 8-bit integers in 32 bits."""
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(flag) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))


def usable_threads() -> int:
    """Return PyTorch's thread count or the number of usable cores, whichever is smaller."""
    limits = [torch.get_num_threads()]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    quota = _cgroup_cores(_CGROUP)
    return min([*limits, quota] if quota else limits)


def _cgroup_cores(root: Path) -> int | None:
    """Return the control group's core limit (cgroup v2 or v1), rounded up, or None."""
    try:
        if (root / "cpu.max").exists():
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        return math.ceil(int(quota) / int(period)) if int(quota) > 0 else None
    except (OSError, ValueError):  # no such files, or "max"
        return None


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything; the CPU always has."""
    if device.type != "cpu" and torch.accelerator.is_available():
        torch.accelerator.synchronize(device)


def describe_device(device: torch.device) -> str:
    """Return a GPU's name and memory, or the device's type."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return device.type
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def tf32_uses(device: torch.device) -> tuple[str, ...]:
    """Return which float32 operations round their inputs to TF32, with its 10-bit mantissas."""
    if device.type != "cuda":
        return ()
    backends = torch.backends
    found = {
        "convolutions": backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matrix products": backends.cuda.matmul.fp32_precision,
    }
    return tuple(name for name, precision in found.items() if precision == "tf32")


def used_mib(device: torch.device) -> float:
    """Return the memory in MiB that PyTorch reserves on a GPU, or that this process uses."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / 2**20
    return resident_mib()


def free_unused(device: torch.device) -> None:
    """Return the memory that PyTorch reserves on a GPU but does not use."""
    if device.type == "cuda":
        gc.collect()  # a failed engine may be in a reference cycle
        torch.cuda.empty_cache()


def resident_mib() -> float:
    """Return this process's resident memory in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except OSError:  # not Linux: the peak so far, in KiB (in bytes on macOS)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def alternate(
    first: Callable[[], object], second: Callable[[], object], seconds: float, spare: float = 0.0
) -> tuple[list[float], list[float]]:
    """Time two functions alternately, so that changes in the machine's speed affect both equally.

    Each turn starts with an untimed call, because the other function's data is still in the
    caches and its threads are still spinning; this made OpenVINO's calls take 1.5 times as long.
    Each function gets at least three turns, and more until `seconds` have passed. If one call to
    each takes more than half of `seconds`, only those two calls count. If their times are close and
    `spare` is long enough, each function is called for two turns even then.

    Args:
        first: the first function.
        second: the second function.
        seconds: the approximate total time.
        spare: the time in seconds available for repeating long calls.

    Returns:
        The duration in seconds of each timed call to the first and to the second function.
    """
    calls = (first, second)
    single = [_seconds(call) for call in calls]
    turns, min_rounds, end = [1, 1], 2, time.perf_counter()
    if sum(single) <= seconds / 2:
        turns, min_rounds = [max(1, min(20, int(0.02 / one))) for one in single], 3
        end += seconds
    elif max(single) >= _CLOSE * min(single) or 4 * sum(single) > spare:
        return [single[0]], [single[1]]
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < min_rounds * turns[0] or time.perf_counter() < end:
        for call, found, turn in zip(calls, times, turns, strict=True):
            call()
            found += [_seconds(call) for _ in range(turn)]
    return times


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, relative to the largest expected value.

    It is infinite if the shapes differ, if an actual value is not finite, or if all expected values
    are 0 but not all actual values are.
    """
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        return math.inf
    largest = (actual.double() - expected.double()).abs().max().item()
    scale = expected.abs().max().item()
    return largest / scale if scale else (math.inf if largest else 0.0)


def spread(logits: Tensor) -> float:
    """Return how much the logits vary between images, relative to the largest logit."""
    scale = logits.abs().max().item()
    return (logits - logits[:1]).abs().max().item() / scale if scale else 0.0


def agreement(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the fraction of images with the same top class; NaN or infinite logits never agree."""
    same = [
        (a.argmax(1) == e.argmax(1)) & a.isfinite().all(1)
        for a, e in zip(actual, expected, strict=True)
    ]
    return torch.cat(same).double().mean().item()


def median_ms(times: Sequence[float]) -> float:
    """Convert times in seconds to their median in milliseconds."""
    return statistics.median(times) * 1e3
