"""How long does a training step take, compared with torchvision's defaults?

A step (forward, loss, backward, SGD with momentum) uses 16 images, 224 x 224 pixels. "theirs" runs
in float32 with the default memory format, and "plain" is our network with the same settings. Other
columns use the settings of `cnnarch train`: channels last, freed memory retained, and the precision
chosen for the machine and the network. bf16 is measured if the processor supports it.

    python -m benchmarks.training_step            all of them; resumes an interrupted run
    python -m benchmarks.training_step resnet18   measure that one again
"""

import ctypes
import gc
import json
import platform
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from benchmarks.measure import alternate, keep, machine_file, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair, images

BAR = "at most 0.62x, geometric mean"
FILE = machine_file("training_step")
BATCH = 16
RUNS = 3
WARMUP = 1
M_MMAP_THRESHOLD = -3  # for glibc's mallopt, from malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # the limit of glibc's own adaptive threshold


def step(model: nn.Module, precision: str, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """Return a function that performs one training step."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4, momentum=0.9)
    bf16 = precision == "bf16-mixed"

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Apply the allocator settings of `cnnarch train`, then restore glibc's defaults."""
    from cnnarch.training.machine import M_MMAP_MAX, M_TRIM_THRESHOLD, keep_freed_memory

    keep_freed_memory()
    try:
        yield
    finally:
        if platform.libc_ver()[0] == "glibc":
            libc = ctypes.CDLL(None)
            libc.mallopt(M_MMAP_MAX, 65_536)
            libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
            libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
            libc.malloc_trim(0)


def measure(pair: Pair) -> dict[str, object]:
    """Return milliseconds per step and ratios; `chosen` is the precision that training uses."""
    from cnnarch.training import Machine
    from cnnarch.training.machine import multiplies_bf16

    x = images(BATCH)
    y = torch.arange(BATCH)
    last = torch.channels_last
    precisions = ["32-true", *(["bf16-mixed"] if multiplies_bf16() else [])]
    ours = {p: pair.ours().to(memory_format=last) for p in precisions}
    chosen = Machine(accelerator="cpu").precision("auto", ours["32-true"])
    candidates = {
        "theirs": step(pair.theirs(), "32-true", x, y),
        "plain": step(pair.ours(), "32-true", x, y),
        **{p: step(model, p, x.contiguous(memory_format=last), y) for p, model in ours.items()},
    }

    def memory(name: str) -> AbstractContextManager[None]:
        return freed_memory_kept() if name in ours else nullcontext()

    seconds = alternate(candidates, RUNS, WARMUP, settle=True, within=memory)
    figures: dict[str, object] = {
        f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()
    }
    for name in ("plain", *ours):
        figures[f"ratio {name}"] = ratio_of_medians(seconds, name, "theirs")
    return {**figures, "chosen": chosen, "ratio": figures[f"ratio {chosen}"]}


def saved_rows() -> dict[str, dict[str, Any]]:
    """Return the measured networks by name."""
    kept = json.loads(FILE.read_text())["results"] if FILE.exists() else {}
    return {p.network: kept[p.network] for p in PAIRS if p.network in kept}


def main(names: list[str]) -> None:
    for pair in PAIRS:
        if pair.network in names or (not names and pair.network not in saved_rows()):
            rows: dict[str, Any] = {**saved_rows(), pair.network: measure(pair)}
            gc.collect()
            means = {
                f"geometric mean of {key}": statistics.geometric_mean(r[key] for r in rows.values())
                for key in ("ratio", "ratio plain")
            }
            keep("training_step", BAR, {**rows, **means}, FILE)


if __name__ == "__main__":
    main(sys.argv[1:])
