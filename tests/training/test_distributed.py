"""Two processes train as one does (gloo, on this machine's processor)."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.training import History

ROOT = Path(cnnarch.__file__).parents[1]
SCRIPT = Path(__file__).with_name("two_processes.py")
EPOCHS = 3

Results = list[dict[str, Any]]  # of the processes


def environment() -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return {**known, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(*command: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def trained(folder: Path, network: str, processes: int) -> Results:
    folder.mkdir(exist_ok=True)
    done = run(SCRIPT, network, processes, folder)
    assert done.returncode == 0, done.stderr
    files = [folder / f"rank-{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What comes of LeNet-5 in two processes that nothing disturbs."""
    return trained(tmp_path_factory.mktemp("two"), "lenet5", 2)


def assert_learned_as_one_does(two: Results, alone: dict[str, Any]) -> None:
    first, second = two
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
    assert len(alone["rows"]) == len(first["rows"]) == EPOCHS
    for row, expected in zip(first["rows"], alone["rows"], strict=True):
        for figure in ("train_loss", "val_loss"):
            assert row[figure] == pytest.approx(expected[figure], abs=1e-4)
        for figure in ("train_acc", "val_acc"):
            assert row[figure] == pytest.approx(expected[figure], abs=1e-6)


def test_two_processes_learn_what_one_does(two: Results, tmp_path: Path) -> None:
    """The network has neither BatchNorm nor dropout, which each process does on its own share."""
    (alone,) = trained(tmp_path / "one", "lenet5", 1)
    assert_learned_as_one_does(two, alone)


@pytest.mark.slow
def test_two_processes_learn_a_deep_network_as_one_does(tmp_path: Path) -> None:
    (alone,) = trained(tmp_path / "one", "vgg11", 1)
    assert_learned_as_one_does(trained(tmp_path / "two", "vgg11", 2), alone)


def test_two_processes_stop_when_one_is_told_to_and_go_on_to_the_same_weights(
    two: Results, tmp_path: Path
) -> None:
    done = run(SCRIPT, "lenet5", 2, tmp_path, 8)  # an epoch has five steps
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert len(History.load(tmp_path / "metrics.csv").rows) == 1
    for process, whole in zip(trained(tmp_path, "lenet5", 2), two, strict=True):
        for name, weight in whole["weights"].items():
            assert torch.equal(process["weights"][name], weight), name
        assert History(process["rows"])["val_loss"] == History(whole["rows"])["val_loss"]


def test_the_command_trains_on_two_devices_and_tells_it_once(tmp_path: Path) -> None:
    words = ["train", "lenet5", "--num_epochs", "2", "--devices", "2", "--accelerator", "cpu"]
    done = run("-m", "cnnarch", *words, "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learns digits") == 1
    assert done.stdout.count("accuracy, all classes") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert sum(map(sum, results["test"]["confusion"])) == 360  # each test image once
    assert results["epochs"] == 2
    again = run("-m", "cnnarch", *words, "--output", tmp_path / "run", "--overwrite")
    assert again.returncode == 0, again.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"recipe.yaml", "model.safetensors", "report.html", "results.json"} <= names


def test_the_command_on_two_devices_stops_at_a_signal_and_says_so_once(tmp_path: Path) -> None:
    words = ["train", "lenet5", "--num_epochs", "500", "--devices", "2", "--accelerator", "cpu"]
    command = [sys.executable, "-u", "-m", "cnnarch", *words, "--output", tmp_path / "run"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch   1" in line:
                process.send_signal(signal.SIGTERM)
                break
        _, told = process.communicate(timeout=120)  # waits for both processes
    assert process.returncode == 128 + signal.SIGTERM, told
    assert told.count("cnnarch: stopped by SIGTERM in epoch") == 1
    assert (tmp_path / "run/checkpoints/stage-1-last.ckpt").exists()


def test_torchrun_starts_the_processes_of_one_run(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = ["train", "lenet5", "--num_epochs", "1", "--devices", "2", "--accelerator", "cpu"]
    done = run(*torchrun, "-m", "cnnarch", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("learns digits") == 1
    assert done.stdout.count("epoch   1") == 1
    assert done.stdout.count("accuracy, all classes") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lenet5-digits"]
    results = json.loads((tmp_path / "runs/lenet5-digits/results.json").read_text())
    assert sum(map(sum, results["test"]["confusion"])) == 360
