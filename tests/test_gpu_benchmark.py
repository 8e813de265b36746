"""The GPU benchmark also runs on a CPU, with small networks."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu import SECTIONS


def test_the_gpu_benchmark_runs_and_resumes_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ("--device", "cpu", "--tiny", "--seconds", "10000", "--output", str(path))
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(path.read_text())
    results = record["results"]
    assert results.keys() == SECTIONS.keys() - {"zoo"}
    rows = [row for section in results.values() for row in section.values()]
    assert not [row["error"] for row in rows if "error" in row]
    assert all(row["logits"] < 1e-6 for row in results["check"].values())
    assert len(first.stdout.splitlines()) == len(rows)
    assert {"machine", "versions", "date"} <= record.keys()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == ""  # all rows are in the file


def test_a_missing_card_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "infer"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no CUDA device" in ended.stderr
