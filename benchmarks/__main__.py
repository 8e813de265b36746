"""Run all benchmarks one after another, each in its own process."""

import subprocess
import sys
from pathlib import Path

NOT_RUN = {"__init__", "__main__", "measure", "pairs", "tables", "transfer", "zoo"}

if __name__ == "__main__":
    for script in sorted(Path(__file__).parent.glob("*.py")):
        if script.stem not in NOT_RUN:
            subprocess.run([sys.executable, "-m", f"benchmarks.{script.stem}"], check=True)
