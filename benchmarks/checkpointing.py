"""How much memory does gradient checkpointing save on DenseNet-121, and how much time does it cost?

A training step (forward, backward, SGD) with 16 images of 224 x 224 pixels in float32. Goals: at
most half the peak memory of torchvision's DenseNet-121 and at most 1.4 times its time.
torchvision's `memory_efficient=True` is also measured.

Memory is the increase in a process's peak resident set size after the network is built, measured in
a separate process for each candidate. Times are measured alternately in one process.

    python -m benchmarks.checkpointing [--runs 5] [--batch 16]
"""

import argparse
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
import torchvision
from torch import nn

import cnnarch
from benchmarks.measure import alternate, keep, ratio_of_medians

SIDE = 224
PLAIN = "torchvision"
OURS = "cnnarch, checkpointed"


def checkpointed() -> nn.Module:
    model = cnnarch.densenet121()
    model.set_grad_checkpointing(True)
    return model


CANDIDATES: dict[str, Callable[[], nn.Module]] = {
    OURS: checkpointed,
    "cnnarch": cnnarch.densenet121,
    PLAIN: torchvision.models.densenet121,
    "torchvision, memory_efficient": lambda: torchvision.models.densenet121(memory_efficient=True),
}


def training_step(name: str, batch: int) -> Callable[[], None]:
    """Return a function that runs one training step with a candidate network."""
    torch.manual_seed(0)
    model = CANDIDATES[name]().train()
    images, labels = torch.randn(batch, 3, SIDE, SIDE), torch.arange(batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def resident_peak() -> float:
    """Return the peak memory of this process in MiB; macOS reports bytes, Linux KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def print_peak(name: str, batch: int) -> None:
    """Print the memory increase after two steps; the second starts with gradients in memory."""
    step = training_step(name, batch)
    before = resident_peak()
    for _ in range(2):
        step()
    print(resident_peak() - before)


def peak_of(name: str, batch: int) -> float:
    """Return the increase in memory in MiB, measured in a new process."""
    command = [sys.executable, "-m", "benchmarks.checkpointing", "--peak-of", name]
    command += ["--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--peak-of", choices=CANDIDATES, help="measure one, in this process")
    options = parser.parse_args()
    if options.peak_of:
        print_peak(options.peak_of, options.batch)
        return
    peaks = {name: peak_of(name, options.batch) for name in CANDIDATES}
    steps = {name: training_step(name, options.batch) for name in CANDIDATES}
    seconds = alternate(steps, options.runs, warmup=1)
    results = {
        "peak_mib": peaks,
        "median_seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "memory_ratio": peaks[OURS] / peaks[PLAIN],
        "time_ratio": ratio_of_medians(seconds, OURS, PLAIN),
        "threads": torch.get_num_threads(),
        "batch": options.batch,
        "seconds": seconds,
    }
    keep("checkpointing", "at most 0.5x the memory and 1.4x the time of torchvision's", results)


if __name__ == "__main__":
    main()
