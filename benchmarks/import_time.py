"""How long does `import cnnarch` take in a process that has imported torch? Goal: at most 50 ms.

Each process imports torch first and times what cnnarch adds, so that the scatter of torch's two
seconds does not reach the result. As after an installation, the bytecode is compiled before.
"""

import compileall
import statistics
import subprocess
import sys
from pathlib import Path

import cnnarch
from benchmarks.measure import keep

ADDED = """
import time, torch
start = time.perf_counter()
import cnnarch
print(1000 * (time.perf_counter() - start))
"""


def milliseconds() -> float:
    """Return the time that a new process takes to import cnnarch after torch."""
    run = subprocess.run([sys.executable, "-c", ADDED], check=True, capture_output=True, text=True)
    return float(run.stdout)


def milliseconds_per_family() -> float:
    """Return the mean time that a new process takes to import the file of one family."""
    command = [sys.executable, "-X", "importtime", "-c", "import torch, cnnarch"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    own = [int(line.split(":")[1].split("|")[0]) for line in lines if " cnnarch.models." in line]
    return statistics.mean(own) / 1000


def main() -> None:
    compileall.compile_dir(Path(cnnarch.__file__).parent, quiet=1)
    extra = [milliseconds() for _ in range(15)]
    family = [milliseconds_per_family() for _ in range(9)]
    results = {
        "extra_milliseconds": statistics.median(extra),
        "milliseconds_per_family": statistics.median(family),
        "milliseconds": {"cnnarch": extra, "family": family},
    }
    keep("import_time", "at most 50 ms over import torch, 0.6 ms a family", results)


if __name__ == "__main__":
    main()
