"""The GPU benchmark also runs on a CPU, with small networks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, gpu_tables
from benchmarks.gpu import SECTIONS
from benchmarks.gpu_setup import Row, Setup
from benchmarks.measure import driver


def test_the_gpu_benchmark_runs_and_resumes_on_a_cpu(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ("--device", "cpu", "--tiny", "--seconds", "10000", "--output", str(path))
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(path.read_text())
    results = record["results"]
    assert results.keys() == SECTIONS.keys()
    rows = [row for section in results.values() for row in section.values()]
    assert not [row["error"] for row in rows if "error" in row]
    assert all(row["logits"] < 1e-6 for row in results["check"].values())
    for row in results["fit"].values():
        ratio = row["eager_by_hand_epoch_s"] / row["fit_epoch_s"]
        assert row["speed_ratio"] == pytest.approx(ratio)
        assert row["setup"]["step"] == "eager (not on a CUDA device)"
    saved = json.loads((tmp_path / "zoo/gpu/lenet5.json").read_text())
    assert results["zoo"]["lenet5, seed 0"]["accuracy"] == saved["seeds"]["0"]["accuracy"]
    assert len(first.stdout.splitlines()) == len(rows)
    assert {"machine", "versions", "date"} <= record.keys()
    failed = next(iter(results["check"]))
    results["check"][failed] = {"error": "it failed once"}
    path.write_text(json.dumps(record))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = again.stdout.splitlines()  # all other rows are in the file
    assert line.startswith(f"check {failed} ")
    assert "error" not in json.loads(path.read_text())["results"]["check"][failed]


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


@pytest.mark.parametrize(
    ("sections", "counts"),
    [(["short"], {"short": 10}), (["short", "long"], {"short": 2, "long": 8})],
)
def test_sections_share_the_seconds(
    sections: list[str],
    counts: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Rows of 10 seconds are measured in 95 seconds, of which "long" gets four times as many."""
    clock = [0.0]

    def measure() -> dict[str, float]:
        clock[0] += 10
        return {}

    def rows(_: object) -> list[tuple[str, Row]]:
        return [(str(i), measure) for i in range(20)]

    monkeypatch.setattr(gpu, "SECTIONS", {"short": (rows, 0.1), "long": (rows, 0.4)})
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock[0])
    found = gpu.run(Setup("cpu", tiny=True), sections, 95, tmp_path / "gpu.json")
    assert {name: len(measured) for name, measured in found.items()} == counts


def test_the_driver_is_that_of_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert driver() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 570.86.15\necho 570.86.15\n")  # one line for each GPU
    program.chmod(0o755)
    assert driver() == "570.86.15"
    program.write_text("#!/bin/sh\nexit 9\n")
    assert driver() is None


def test_all_benchmarks_together_need_no_card() -> None:
    """`make bench` stops at the first benchmark that fails."""
    names = benchmarks.scripts()
    assert {"inference", "training_step"} <= {*names}
    assert not [name for name in names if "gpu" in name]


def test_a_missing_card_is_an_error() -> None:
    import torch

    if torch.cuda.is_available():
        return
    command = [sys.executable, "-m", "benchmarks.gpu", "infer"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no CUDA device" in ended.stderr
