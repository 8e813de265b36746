"""The GPU benchmark also runs on a CPU, with small networks."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu_tables
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


def test_the_tables_name_the_gpu_and_show_every_row(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    assert gpu_tables.text(path) == "Nothing has been measured on a GPU with this version yet."
    infer = {
        "resnet50, batch 1": {"eager_ms": 4.27, "optimize_ms": 0.756, "candidates": [{}]},
        "resnet50, batch 128": {"error": "RuntimeError: x"},
        "efficientnet_b0, batch 1": {"eager_ms": 10.7, "optimize_ms": 0.73, "candidates": [{}]},
    }
    record = {
        "date": "2026-01-02",
        "machine": {"card": "NVIDIA H200", "memory_bytes": 139 * 2**30, "cuda": "13.0"},
        "versions": {"torch": "2.14.1"},
        "results": {"infer": infer, "fit": {"resnet20": {"images_per_s": 61234.5}}},
    }
    path.write_text(json.dumps(record))
    text = gpu_tables.text(path)
    where = "Measured on 2026-01-02 on one NVIDIA H200 (139 GiB) with PyTorch 2.14.1 and CUDA 13.0"
    assert text.startswith(where)
    first = "| | eager | optimize |\n|---|--:|--:|\n| resnet50, batch 1 | 4.27 | 0.756 |"
    assert f"{first}\n| efficientnet_b0, batch 1 | 10.7 | 0.73 |" in text
    assert "| | error |\n|---|--:|\n| resnet50, batch 128 | RuntimeError: x |" in text
    assert "| | images/s |\n|---|--:|\n| resnet20 | 61,234 |" in text


def test_a_missing_card_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "infer"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no CUDA device" in ended.stderr
