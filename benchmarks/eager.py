"""Is a plain forward as quick as torchvision's and timm's? Batch 1 and 16, no engine, no tricks.

    python -m benchmarks.eager                  every network
    python -m benchmarks.eager mobilenet_v1 16  one measurement of one

Where a process happens to place its weights and maps changes some ratios by a tenth, so that each
row is the median over processes.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

import torch
from torch.testing import assert_close

from benchmarks.measure import alternate, keep, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair, images

BAR = "at most 1.05x the time of torchvision's or timm's twin each, 1.0x geometric mean"
RUNS = {1: 25, 16: 5}
PROCESSES = 3


def measure(pair: Pair, batch: int) -> dict[str, float]:
    """Milliseconds a batch, theirs and ours, and the ratio, in this process."""
    models = {"theirs": pair.theirs().eval(), "ours": pair.ours().eval()}
    x = images(batch)
    with torch.inference_mode():
        assert_close(models["ours"](x[:2]), models["theirs"](x[:2]), atol=1e-3, rtol=1e-3)
        seconds = alternate(
            {name: lambda model=model: model(x) for name, model in models.items()}, RUNS[batch]
        )
    figures = {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}
    return {**figures, "ratio": ratio_of_medians(seconds, "ours", "theirs")}


def over_processes(pair: Pair, batch: int) -> dict[str, Any]:
    """Medians of several processes, and the ratio of each."""
    command = [sys.executable, "-m", "benchmarks.eager", pair.network, str(batch)]
    runs = [subprocess.run(command, check=True, capture_output=True) for _ in range(PROCESSES)]
    found = [json.loads(run.stdout) for run in runs]
    medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
    return {**medians, "ratios": [run["ratio"] for run in found]}


def main(words: list[str]) -> None:
    if words:
        pair = next(p for p in PAIRS if p.network == words[0])
        print(json.dumps(measure(pair, int(words[1]))))
        return
    results: dict[str, Any] = {}
    for pair in PAIRS:
        for batch in RUNS:
            results[f"{pair.network}, batch {batch}"] = row = over_processes(pair, batch)
            print(pair.network, batch, row, flush=True)
    mean = statistics.geometric_mean(row["ratio"] for row in results.values())
    keep("eager", BAR, {**results, "geometric mean": mean})


if __name__ == "__main__":
    main(sys.argv[1:])
