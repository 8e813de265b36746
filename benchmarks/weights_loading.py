"""Measure the time and memory to build VGG-16 with weights from a file.

Goal: at most 0.6x the time of torchvision, which reads the same values from its .pth, and at
most 1.1x the file size in extra peak memory. Both are measured after reading every value once.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import keep

FILE = "vgg16-397923af.pth"  # torchvision expects this name in torch.hub's cache
RUNS = 9
WRITE = """
import os, sys, torch, torchvision, cnnarch
folder = sys.argv[1]
theirs = torchvision.models.vgg16()
torch.save(theirs.state_dict(), os.path.join(folder, "hub", "checkpoints", sys.argv[2]))
ours = cnnarch.vgg16(weights=theirs.state_dict())
ours.save_pretrained(os.path.join(folder, "ours"))
"""
MEASURE = """
import json, resource, sys, time, torch
{imports}
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
folder, file = sys.argv[1:]
before, start = peak(), time.perf_counter()
model = {build}
loaded = time.perf_counter() - start
with torch.no_grad():
    total = sum(p.sum().item() for p in model.parameters())
used = time.perf_counter() - start
print(json.dumps(dict(loaded=loaded, used=used, memory=peak() - before, total=total)))
"""
BUILD = {
    "torchvision": ("import torchvision", 'torchvision.models.vgg16(weights="IMAGENET1K_V1")'),
    "cnnarch, its own .safetensors": (
        "import cnnarch.weights",
        'cnnarch.vgg16(weights=f"{folder}/ours")',
    ),
    "cnnarch, torchvision's .pth": (
        "import cnnarch.weights",
        'cnnarch.vgg16(weights=f"{folder}/hub/checkpoints/{file}")',
    ),
}


def run(code: str, folder: Path, environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-c", code, str(folder), FILE]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return out.stdout


def measure(folder: Path, runs: int) -> dict[str, list[dict[str, float]]]:
    """Run the processes alternately (A B C A B C ...) after one warm-up run of each."""
    environment = {**os.environ, "TORCH_HOME": str(folder)}
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    run(WRITE, folder, environment)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in BUILD}
    for number in range(-1, runs):
        for name, (imports, build) in BUILD.items():
            code = MEASURE.replace("{imports}", imports).replace("{build}", build)
            result = json.loads(run(code, folder, environment))
            if number >= 0:
                found[name].append(result)
    totals = {round(result["total"], 1) for results in found.values() for result in results}
    assert len(totals) == 1, f"different values were read: {totals}"
    return found


def median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def main(runs: int = RUNS) -> None:
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), runs)
        size = (Path(name) / "hub" / "checkpoints" / FILE).stat().st_size
    theirs = median(found["torchvision"], "used")
    results: dict[str, Any] = {"file_bytes": size, "runs": runs}
    for name, values in found.items():
        results[name] = {
            "seconds_until_built": median(values, "loaded"),
            "seconds_until_every_value_was_read": median(values, "used"),
            "time_over_torchvisions": median(values, "used") / theirs,
            "extra_peak_memory_over_file_size": median(values, "memory") / size,
        }
    keep(
        "weights_loading",
        "at most 0.6x torchvision's time and 1.1x the file's size in extra peak memory",
        results,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
