"""Ask every question, one after another, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

OTHERS = {"__init__", "__main__", "measure", "pairs", "tables", "transfer", "zoo"}  # or take long

if __name__ == "__main__":
    for script in sorted(Path(__file__).parent.glob("*.py")):
        if script.stem not in OTHERS:
            subprocess.run([sys.executable, "-m", f"benchmarks.{script.stem}"], check=True)
