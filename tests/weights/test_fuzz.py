"""Damaged files are either loaded or rejected with a WeightsError."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def fuzz(folder: Path, count: int, seed: int) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.weights.fuzz", str(folder)]
    out = subprocess.run([*command, str(count), str(seed)], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    result = json.loads(out.stdout)
    assert result["count"] == count
    assert result["refused"] > count / 2  # mutations elsewhere change only tensor values


def test_hundreds_of_mutated_files_are_rejected_or_loaded(tmp_path: Path) -> None:
    fuzz(tmp_path, 600, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(1, 6))
def test_thousands_of_mutated_files_are_rejected_or_loaded(tmp_path: Path, seed: int) -> None:
    fuzz(tmp_path, 4000, seed)
