"""Run all benchmarks for a CPU one after another, each in its own process."""

import subprocess
import sys
from pathlib import Path

NOT_RUN = {
    *("__init__", "__main__", "claims", "goals", "measure", "pairs", "plots", "tables"),
    *("transfer", "zoo"),
}


def scripts() -> list[str]:
    """Return the names of the benchmarks; those that start with gpu need a GPU."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in names if name not in NOT_RUN and not name.startswith("gpu")]


if __name__ == "__main__":
    for script in scripts():
        subprocess.run([sys.executable, "-m", f"benchmarks.{script}"], check=True)
