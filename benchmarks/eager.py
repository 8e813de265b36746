"""Is a plain forward as quick as torchvision's and timm's? Batch 1 and 16, no engine, no tricks.

    python -m benchmarks.eager                     all of them; a run that was stopped goes on
    python -m benchmarks.eager mobilenet_v1 16     that row, again
    python -m benchmarks.eager mobilenet_v1 16 1   that row in this process alone, ours first

Where a process happens to place its weights and maps changes some ratios by a tenth, and who runs
first is placed better: each row is the median over processes, in every other of which ours is the
first.
"""

import json
import statistics
import subprocess
import sys
from typing import Any

import torch
from torch.testing import assert_close

from benchmarks.measure import alternate, file_here, keep, ratio_of_medians
from benchmarks.pairs import PAIRS, Pair, images

BAR = "at most 1.05x the time of torchvision's or timm's twin each, 1.0x geometric mean"
FILE = file_here("eager")
RUNS = {1: 25, 16: 5}
PROCESSES = 4


def measure(pair: Pair, batch: int, ours_first: bool) -> dict[str, float]:
    """Milliseconds a batch, theirs and ours, and the ratio, in this process."""
    models = {"theirs": pair.theirs().eval(), "ours": pair.ours().eval()}
    order = sorted(models, reverse=not ours_first)
    x = images(batch)
    with torch.inference_mode():
        assert_close(*(models[name](x[:2]) for name in order), atol=1e-3, rtol=1e-3)
        calls = {name: lambda model=models[name]: model(x) for name in order}
        seconds = alternate(calls, RUNS[batch])
    figures = {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}
    return {**figures, "ratio": ratio_of_medians(seconds, "ours", "theirs")}


def over_processes(pair: Pair, batch: int) -> dict[str, Any]:
    """Medians of several processes, and the ratio of each."""
    command = [sys.executable, "-m", "benchmarks.eager", pair.network, str(batch)]
    found = []
    for process in range(PROCESSES):
        run = subprocess.run([*command, str(process % 2)], check=True, capture_output=True)
        found.append(json.loads(run.stdout))
    medians = {name: statistics.median(run[name] for run in found) for name in found[0]}
    return {**medians, "ratios": [run["ratio"] for run in found]}


def done() -> dict[str, Any]:
    """The rows that are measured, in the order of the pairs."""
    kept = json.loads(FILE.read_text())["results"] if FILE.exists() else {}
    names = [row_name(pair, batch) for pair in PAIRS for batch in RUNS]
    return {name: kept[name] for name in names if name in kept}


def row_name(pair: Pair, batch: int) -> str:
    """What a row is called."""
    return f"{pair.network}, batch {batch}"


def one(pair: Pair, batch: int) -> None:
    """Measure a row and keep it."""
    rows: dict[str, Any] = {**done(), row_name(pair, batch): over_processes(pair, batch)}
    mean = statistics.geometric_mean(row["ratio"] for row in rows.values())
    keep("eager", BAR, {**rows, "geometric mean": mean}, FILE)


def main(words: list[str]) -> None:
    if not words:
        for pair in PAIRS:
            for batch in RUNS:
                if row_name(pair, batch) not in done():
                    one(pair, batch)
        return
    pair = next(p for p in PAIRS if p.network == words[0])
    if words[2:]:
        print(json.dumps(measure(pair, int(words[1]), ours_first=words[2] == "1")))
    else:
        one(pair, int(words[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
