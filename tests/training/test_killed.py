"""Runs that are killed, receive a signal or run out of disk space, in separate processes."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cnnarch.training.signals import stopping_signals
from tests.forks import ForkResult, Forks

WORDS = ["train", "lenet5", "--num_epochs", "3", "--batch_size", "256"]

IN_A_STEP = """
import os, signal
from cnnarch.training.step import TrainingStep
step, steps = TrainingStep.__call__, []
def call(self, *args):
    steps.append(args)
    if len(steps) == 8:
        os.kill(os.getpid(), signal.{signal})
    return step(self, *args)
TrainingStep.__call__ = call
"""
IN_A_CHECKPOINT = """
import os, signal
calls = []
def interrupted(descriptor):  # the second checkpoint is only partly on disk
    calls.append(descriptor)
    if len(calls) == 2:
        os.ftruncate(descriptor, 1000)
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = interrupted
"""
FULL_DISK = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from cnnarch.training import stage
real, calls = stage.save_checkpoint, []
def save_checkpoint(*args):
    calls.append(args)
    if len(calls) == 2:  # limits files to 100,000 bytes from now on
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    real(*args)
stage.save_checkpoint = save_checkpoint
"""


Run = Callable[..., ForkResult]


@pytest.fixture(scope="module")
def run(forks: Forks) -> Run:
    """Run the command in a separate process, after the code in `prelude`."""

    def run(folder: Path, *more: str, prelude: str = "") -> ForkResult:
        words = [*WORDS, "--output", str(folder), *more]
        (ended,) = forks.run(
            f"import sys\n{prelude}\nfrom cnnarch.cli import main\nsys.exit(main({words}))"
        )
        return ended._replace(err=without_advice(ended.err))

    return run


def without_advice(err: str) -> str:
    """Remove the line that says that these runs are short."""
    return "".join(line for line in err.splitlines(True) if "this run takes only" not in line)


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run(folder)
    assert done.status == 0, done.err
    return folder


def assert_resumes_to(whole: Path, folder: Path, run: Run) -> None:
    done = run(folder, "--resume")
    assert done.status == 0, done.err
    expected, got = (load_file(f / "model.safetensors") for f in (whole, folder))
    assert all((expected[name] == got[name]).all() for name in expected)
    assert (folder / "results.json").exists()
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize(
    "prelude", [IN_A_STEP.format(signal="SIGKILL"), IN_A_CHECKPOINT], ids=["step", "checkpoint"]
)
def test_a_killed_run_loses_at_most_one_epoch(
    whole: Path, run: Run, tmp_path: Path, prelude: str
) -> None:
    folder = tmp_path / "run"
    assert run(folder, prelude=prelude).status == -signal.SIGKILL
    assert (folder / "checkpoints" / "stage-1-last.ckpt").exists()  # from the first epoch
    assert_resumes_to(whole, folder, run)


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGINT", "SIGHUP")), "SIGUSR1"],
)
def test_a_stopped_run_prints_one_line_and_can_be_resumed(
    whole: Path, run: Run, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    done = run(folder, prelude=IN_A_STEP.format(signal=name))
    assert done.status == 128 + signal.Signals[name]
    (line,) = done.err.splitlines()
    assert line == f"cnnarch: stopped by {name} in epoch 2 after step 3; resume to continue"
    assert_resumes_to(whole, folder, run)


def test_sighup_stops_training_unless_it_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under nohup, SIGHUP is ignored and stays ignored."""
    ignored: set[signal.Signals] = set()

    def current(number: signal.Signals) -> signal.Handlers:
        return signal.SIG_IGN if number in ignored else signal.SIG_DFL

    monkeypatch.setattr(signal, "getsignal", current)
    expected = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP}
    assert set(stopping_signals()) == expected
    ignored.add(signal.SIGHUP)
    assert set(stopping_signals()) == expected - {signal.SIGHUP}


NOHUP = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"


def test_training_under_nohup_ignores_sighup(run: Run, tmp_path: Path) -> None:
    done = run(tmp_path / "run", prelude=NOHUP + IN_A_STEP.format(signal="SIGHUP"))
    assert (done.status, done.err) == (0, "")


WITH_WORKERS = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
os.setpgid(0, 0)
from cnnarch.training import loading
real = loading._loader
loading._loader = lambda images, sampler, _: real(images, sampler, 1)
"""
WITH_WORKERS += IN_A_STEP.replace("os.kill(os.getpid(), ", "os.killpg(os.getpid(), ")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_to_all_processes_does_not_end_the_workers(
    whole: Path, run: Run, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    done = run(folder, prelude=WITH_WORKERS.format(signal=name))
    assert done.status == 128 + signal.Signals[name], done.err
    assert done.err.splitlines()[-1].startswith(f"cnnarch: stopped by {name} in epoch 2 after")
    assert_resumes_to(whole, folder, run)


def test_a_full_disk_prints_one_line_and_keeps_earlier_epochs(
    whole: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = run(folder, prelude=FULL_DISK)
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "stage-1-last.ckpt" in line
    assert "File too large" in line
    assert_resumes_to(whole, folder, run)
