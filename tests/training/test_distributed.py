"""Two processes train as one does (gloo, on this machine's processor)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cnnarch

ROOT = Path(cnnarch.__file__).parents[1]
SCRIPT = Path(__file__).with_name("two_processes.py")
EPOCHS = 3


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment = {**known, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def trained(folder: Path, network: str, processes: int) -> list[dict[str, Any]]:
    folder.mkdir()
    done = run(SCRIPT, network, processes, folder)
    assert done.returncode == 0, done.stderr
    files = [folder / f"rank-{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.mark.parametrize("network", ["lenet5", pytest.param("vgg11", marks=pytest.mark.slow)])
def test_two_processes_learn_what_one_does(tmp_path: Path, network: str) -> None:
    """Neither has BatchNorm or dropout, which each process does on its own share."""
    (alone,) = trained(tmp_path / "one", network, 1)
    first, second = trained(tmp_path / "two", network, 2)
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
    assert len(alone["rows"]) == len(first["rows"]) == EPOCHS
    for row, expected in zip(first["rows"], alone["rows"], strict=True):
        for figure in ("train_loss", "val_loss"):
            assert row[figure] == pytest.approx(expected[figure], abs=1e-4)
        for figure in ("train_acc", "val_acc"):
            assert row[figure] == pytest.approx(expected[figure], abs=1e-6)


def test_the_command_trains_on_two_devices_and_tells_it_once(tmp_path: Path) -> None:
    words = ["train", "lenet5", "--num_epochs", "2", "--devices", "2", "--accelerator", "cpu"]
    done = run("-m", "cnnarch.cli", *words, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learns digits") == 1
    assert done.stdout.count("accuracy, all classes") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(map(sum, results["test"]["confusion"])) == 360  # each test image once
    assert results["epochs"] == 2
    again = run("-m", "cnnarch.cli", *words, "--output", tmp_path / "run", "--overwrite")
    assert again.returncode == 0, again.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "model.safetensors", "report.html", "results.json"} <= names
