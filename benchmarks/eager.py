"""Is a plain forward pass as fast as torchvision's and timm's, for batches of 1 and 16?

    python -m benchmarks.eager                             all in float32, the Mixer in bfloat16;
                                                           resumes an interrupted run
    python -m benchmarks.eager once                        networks without a row, in this process
                                                           and with in-place activations for 16;
                                                           resumes
    python -m benchmarks.eager mobilenet_v1 16 float32     measure that row again
    python -m benchmarks.eager mobilenet_v1 16 float32 1   in this process only, ours first

The memory addresses of weights and feature maps differ between processes, which changes some ratios
by 10%, and the network that runs first has an advantage. Each row is therefore the median over
several processes, in half of which our network runs first.
"""

import json
import statistics
import subprocess
import sys
from typing import Any, NamedTuple

import torch
from torch.testing import assert_close

import cnnarch
from benchmarks.measure import alternate, keep, machine_file, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair, images

BAR = "at most 1.05x the time of torchvision's or timm's network each, 1.0x geometric mean"
ONCE_BAR = "geometric mean at most 1.05x, none above 1.15x"
FILE = machine_file("eager")
ONCE = machine_file("eager_once")
RUNS = {1: 25, 16: 5}
PROCESSES = 4


class Row(NamedTuple):
    """A pair of networks to time, with its batch size and precision."""

    pair: Pair
    batch: int
    precision: str

    @property
    def name(self) -> str:
        """The row's name in the results."""
        return f"{self.pair.network}, batch {self.batch}" + (
            "" if self.precision == "float32" else f", {self.precision}"
        )


ROWS = [Row(pair, batch, "float32") for pair in PAIRS for batch in RUNS] + [
    Row(pair, batch, "bfloat16") for pair in PAIRS if pair.network == "mixer_b16" for batch in RUNS
]
NEAR = {"float32": 1e-3, "bfloat16": 0.1}


def measure(row: Row, ours_first: bool, *, inplace: bool = False) -> dict[str, float]:
    """Return both networks' times in milliseconds per batch and their ratio, in this process."""
    dtype = getattr(torch, row.precision)
    models = {"theirs": row.pair.theirs(), "ours": row.pair.ours()}
    if inplace:
        cnnarch.set_inplace(models["ours"])
    order = sorted(models, reverse=not ours_first)
    x = images(row.batch).to(dtype)
    near = NEAR[row.precision]
    with torch.inference_mode():
        for model in models.values():
            model.eval().to(dtype)
        logits = [models[name](x[:2]) for name in order]
        scale = float(logits[0].abs().max())  # random weights make logits of up to 10,000
        assert_close(*logits, atol=near * scale, rtol=0)
        calls = {name: lambda model=models[name]: model(x) for name in order}
        seconds = alternate(calls, RUNS[row.batch])
    figures = {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}
    return {**figures, "ratio": ratio_of_medians(seconds, "ours", "theirs")}


def measure_in_processes(row: Row) -> dict[str, Any]:
    """Return the medians over several processes, and each process's ratio."""
    arguments = [row.pair.network, str(row.batch), row.precision]
    command = [sys.executable, "-m", "benchmarks.eager", *arguments]
    found = []
    for process in range(PROCESSES):
        run = subprocess.run([*command, str(process % 2)], check=True, capture_output=True)
        found.append(json.loads(run.stdout))
    medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
    return {**medians, "ratios": [run["ratio"] for run in found]}


def saved_rows() -> dict[str, Any]:
    """Return the measured rows in order."""
    kept = json.loads(FILE.read_text())["results"] if FILE.exists() else {}
    return {row.name: kept[row.name] for row in ROWS if row.name in kept}


def measure_and_save(row: Row) -> None:
    """Measure a row and save it."""
    rows: dict[str, Any] = {**saved_rows(), row.name: measure_in_processes(row)}
    float32 = [rows[row.name] for row in ROWS if row.name in rows and row.precision == "float32"]
    mean = statistics.geometric_mean(row["ratio"] for row in float32)
    keep("eager", BAR, {**rows, "geometric mean": mean}, FILE)


def measure_once() -> None:
    """Measure the networks without a row, both orders in one process.

    For batches of 16, our activations are in place, as theirs are.
    """
    results: dict[str, Any] = json.loads(ONCE.read_text())["results"] if ONCE.exists() else {}
    results.pop("geometric mean", None)
    done = saved_rows() | results
    for row in (r for r in ROWS if r.precision == "float32" and r.name not in done):
        found = [measure(row, ours_first, inplace=row.batch > 1) for ours_first in (True, False)]
        results[row.name] = {key: statistics.median(f[key] for f in found) for key in found[0]}
        mean = statistics.geometric_mean(row["ratio"] for row in results.values())
        keep("eager", ONCE_BAR, {**results, "geometric mean": mean}, ONCE)


def main(arguments: list[str]) -> None:
    if arguments == ["once"]:
        measure_once()
        return
    if not arguments:
        for row in ROWS:
            if row.name not in saved_rows():
                measure_and_save(row)
        return
    row = next(
        row for row in ROWS if [row.pair.network, str(row.batch), row.precision] == arguments[:3]
    )
    if arguments[3:]:
        print(json.dumps(measure(row, ours_first=arguments[3] == "1")))
    else:
        measure_and_save(row)


if __name__ == "__main__":
    main(sys.argv[1:])
