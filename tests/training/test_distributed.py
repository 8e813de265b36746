"""Two processes train like a single process, using gloo on the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.training import History
from tests.forks import ForkResult, Forks

ROOT = Path(cnnarch.__file__).parents[1]
EPOCHS = 3

Results = list[dict[str, Any]]  # one per process


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


def group_environments(processes: int) -> list[dict[str, str]]:
    """Return the environment variables that torchrun sets for each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if processes == 1:
        return [{}]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "none"}
    count = str(processes)
    return [
        {**place, **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), count), "GROUP_RANK": "0"}
        | dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank))
        for rank in range(processes)
    ]


def fitted(
    forks: Forks, folder: Path, network: str, processes: int, step: int = 0
) -> list[ForkResult]:
    words = (network, processes, str(folder), step)
    code = f"from tests.training.two_processes import fit_and_save\nfit_and_save{words}"
    return forks.run(code, *group_environments(processes))


def trained(forks: Forks, folder: Path, network: str, processes: int) -> Results:
    folder.mkdir(exist_ok=True)
    for ended in fitted(forks, folder, network, processes):
        assert ended.status == 0, ended.err
    files = [folder / f"rank-{rank}.pt" for rank in range(processes)]
    return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="module")
def two(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of an uninterrupted run of LeNet-5 in two processes."""
    return trained(forks, tmp_path_factory.mktemp("two"), "lenet5", 2)


def assert_same_training(two: Results, alone: dict[str, Any]) -> None:
    first, second = two
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
    assert len(alone["rows"]) == len(first["rows"]) == EPOCHS
    for row, expected in zip(first["rows"], alone["rows"], strict=True):
        for metric in ("train_loss", "val_loss"):
            assert row[metric] == pytest.approx(expected[metric], abs=1e-4)
        for metric in ("train_acc", "val_acc"):
            assert row[metric] == pytest.approx(expected[metric], abs=1e-6)


def test_two_processes_train_like_a_single_process(
    forks: Forks, two: Results, tmp_path: Path
) -> None:
    """LeNet-5 has no BatchNorm or dropout, which would treat each process's images separately."""
    (alone,) = trained(forks, tmp_path / "one", "lenet5", 1)
    assert_same_training(two, alone)


@pytest.mark.slow
def test_two_processes_train_a_deep_network_like_a_single_process(
    forks: Forks, tmp_path: Path
) -> None:
    (alone,) = trained(forks, tmp_path / "one", "vgg11", 1)
    assert_same_training(trained(forks, tmp_path / "two", "vgg11", 2), alone)


def test_two_processes_stop_when_one_receives_a_signal_and_resume_to_the_same_weights(
    forks: Forks, two: Results, tmp_path: Path
) -> None:
    first, second = fitted(forks, tmp_path, "lenet5", 2, 8)  # an epoch has five steps
    assert (first.status, second.status) == (128 + signal.SIGTERM, 0), first.err
    assert len(History.load(tmp_path / "metrics.csv").rows) == 1
    for process, whole in zip(trained(forks, tmp_path, "lenet5", 2), two, strict=True):
        for name, weight in whole["weights"].items():
            assert torch.equal(process["weights"][name], weight), name
        assert History(process["rows"])["val_loss"] == History(whole["rows"])["val_loss"]


COMMAND = ["train", "lenet5", "--devices", "2", "--accelerator", "cpu", "--num_epochs"]


def assert_one_run(printed: str, folder: Path) -> None:
    assert printed.count("on digits: ") == 1
    assert printed.count("epoch   1") == 1
    assert printed.count("accuracy, all classes") == 1
    assert [path.name for path in folder.iterdir()] == ["runs"]
    (run,) = (folder / "runs").iterdir()
    assert run.name == "lenet5-digits"
    names = {path.name for path in run.iterdir()}
    assert {"recipe.yaml", "model.safetensors", "report.html", "results.json"} <= names
    results = json.loads((run / "results.json").read_text())
    assert sum(map(sum, results["test"]["confusion"])) == 360  # each test image is counted once
    assert results["epochs"] == 1


def create_earlier_run(folder: Path) -> None:
    """Create an earlier run, which only one of the two processes may delete."""
    run = folder / "runs/lenet5-digits"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: lenet5\n")
    (run / "results.json").write_text("{}")


@pytest.mark.slow
def test_the_command_trains_on_two_devices_and_prints_once(tmp_path: Path) -> None:
    create_earlier_run(tmp_path)
    done = run("-m", "cnnarch", *COMMAND, "1", "--overwrite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_one_run(done.stdout, tmp_path)


TERM_IN_A_STEP = """
import os, signal, sys
from cnnarch.cli import main
from cnnarch.training.step import TrainingStep
step, steps = TrainingStep.__call__, []
def call(self, *args):
    steps.append(args)
    if len(steps) == 11 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *args)
TrainingStep.__call__ = call
"""


def assert_stopped(status: int, printed: str, folder: Path) -> None:
    assert status == 128 + signal.SIGTERM, printed
    assert printed.count("cnnarch: stopped by SIGTERM in epoch") == 1
    assert (folder / "checkpoints/stage-1-last.ckpt").exists()


def test_the_command_in_two_processes_stops_on_a_signal_and_prints_once(
    forks: Forks, tmp_path: Path
) -> None:
    words = [*COMMAND, "500", "--output", str(tmp_path / "run")]
    code = f"{TERM_IN_A_STEP}\nsys.exit(main({words}))"
    first, second = forks.run(code, *group_environments(2))
    assert_stopped(first.status, first.err + second.err, tmp_path / "run")
    assert second.status == 0


@pytest.mark.slow
def test_the_command_on_two_devices_stops_on_a_signal_and_prints_once(tmp_path: Path) -> None:
    words = [*COMMAND, "500", "--output", tmp_path / "run"]
    command = [sys.executable, "-u", "-m", "cnnarch", *words]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "epoch   1" in line:
                process.send_signal(signal.SIGTERM)
                break
        _, printed = process.communicate(timeout=120)  # waits for both processes
    assert_stopped(process.returncode, printed, tmp_path / "run")


def test_processes_with_torchruns_environment_train_together(forks: Forks, tmp_path: Path) -> None:
    create_earlier_run(tmp_path)
    words = [*COMMAND, "1", "--overwrite"]
    code = f"import sys\nfrom cnnarch.cli import main\nsys.exit(main({words}))"
    ended = forks.run(code, *group_environments(2), cwd=tmp_path)
    assert [process.status for process in ended] == [0, 0], ended
    assert_one_run("".join(process.out for process in ended), tmp_path)


@pytest.mark.slow
def test_torchrun_can_start_the_processes(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run(*torchrun, "-m", "cnnarch", *COMMAND, "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_one_run(done.stdout, tmp_path)
