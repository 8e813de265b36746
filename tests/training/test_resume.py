"""Resuming: an interrupted run ends with the same weights as an uninterrupted one."""

import multiprocessing
import os
import signal
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import (
    History,
    ImageData,
    Machine,
    Recipe,
    TrainingStopped,
    evaluate,
    fit,
)
from cnnarch.training.stage import StageRun
from tests.training.conftest import Peaks, sides

BASIC = Recipe(
    num_epochs=4,
    batch_size=16,
    optimizer="adam",
    learning_rate=3e-3,
    validation=0.25,
    crop_padding=2,
    flip=True,
    mixup=0.3,
)
RECIPES = {
    "one-cycle with adam": BASIC,
    "warm cosine with sgd": replace(
        BASIC, optimizer="sgd", learning_rate=0.05, schedule="cosine", warmup_epochs=1
    ),
    "an average of weights": replace(BASIC, ema=0.9),
    "the best epoch": replace(BASIC, keep_best=True),
    "two stages": replace(
        BASIC, num_epochs=2, then=[{"num_epochs": 2, "optimizer": "sgd", "schedule": "step"}]
    ),
    "without validation": replace(BASIC, validation=0.0),
    "early stopping": replace(BASIC, early_stopping=2),
    "test curves": replace(BASIC, test_each_epoch=True),
    "accumulated gradients": replace(BASIC, batch_size=8, accumulate_grad_batches=2),
    "balanced classes": replace(BASIC, balanced_sampling=True, freeze_norm=True),
}


class KilledError(Exception):
    """Simulates a killed process."""


def small() -> nn.Module:
    """Return a network with randomness (dropout) and state (BatchNorm)."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 4))


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@cache
def uninterrupted(name: str) -> tuple[dict[str, Tensor], History]:
    """Return the weights and history of an uninterrupted run."""
    model = small()
    history = fit(model, sides(), RECIPES[name])
    return state(model), history


def stop_after(epochs: int) -> Any:
    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == epochs + 1:
            raise KilledError  # before this epoch's checkpoint is written

    return stop


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_resumed_run_ends_with_identical_weights(
    data: ImageData, tmp_path: Path, name: str, epochs: int
) -> None:
    recipe = RECIPES[name]
    a, expected = uninterrupted(name)
    with pytest.raises(KilledError):
        fit(small(), data, recipe, output=tmp_path, on_epoch_end=stop_after(epochs))
    torch.manual_seed(99)
    resumed = small()
    history = fit(resumed, data, recipe, output=tmp_path, resume=True)
    b = state(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)
    for key in expected:
        if key != "seconds":
            assert history[key] == expected[key], key
    assert History.load(tmp_path / "metrics.csv").rows == history.rows


def test_the_best_epoch_is_found_in_a_renamed_folder(data: ImageData, tmp_path: Path) -> None:
    recipe = RECIPES["the best epoch"]
    with pytest.raises(KilledError):
        fit(Peaks(), data, recipe, output=tmp_path / "old", on_epoch_end=stop_after(3))
    (tmp_path / "old").rename(tmp_path / "new")
    model = Peaks()
    history = fit(model, data, recipe, output=tmp_path / "new", resume=True)
    assert history["val_acc"] == [0, 1, 0, 0]
    assert model.steps == 8
    assert not (tmp_path / "old").exists()


def test_resuming_a_finished_run_loads_its_weights(data: ImageData, tmp_path: Path) -> None:
    model, again = small(), small()
    history = fit(model, data, BASIC, output=tmp_path)
    repeated = fit(again, data, BASIC, output=tmp_path, resume=True)
    a, b = state(model), state(again)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert repeated.rows == history.rows


@pytest.mark.parametrize("finished", [False, True], ids=["within a stage", "after a stage"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "written with optimizer='adam', not 'sgd'; use the same recipe"),
        ({"learning_rate": 0.1}, "written with learning_rate=0.003, not 0.1"),
        ({"ema": 0.9}, "written with ema=0.0, not 0.9"),
    ],
)
def test_a_run_does_not_resume_with_another_recipe(
    data: ImageData, tmp_path: Path, finished: bool, change: dict[str, Any], message: str
) -> None:
    stop = None if finished else stop_after(1)
    with nullcontext() if finished else pytest.raises(KilledError):
        fit(small(), data, BASIC, output=tmp_path, on_epoch_end=stop)
    with pytest.raises(ValueError, match=message):
        fit(small(), data, replace(BASIC, **change), output=tmp_path, resume=True)
    cited = replace(BASIC, source="a paper")
    assert len(fit(small(), data, cited, output=tmp_path, resume=True).rows) == 4


def test_resuming_without_a_run_starts_one(data: ImageData, tmp_path: Path) -> None:
    assert len(fit(small(), data, BASIC, output=tmp_path, resume=True).rows) == 4


def test_worker_processes_do_not_change_the_result(data: ImageData) -> None:
    """The run has two epochs because the image order differs between epochs."""
    models = [small(), small()]
    recipe = replace(BASIC, num_epochs=2)
    for model, workers in zip(models, (0, 1), strict=True):
        fit(model, data, recipe, machine=Machine(num_workers=workers))
    a, b = map(state, models)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("first", [True, False], ids=["in training", "in validation"])
def test_worker_processes_end_with_a_stopped_run(
    data: ImageData, tmp_path: Path, first: bool
) -> None:
    """Otherwise the process would wait for them when it exits: they ignore its SIGTERM."""
    model = small()

    def stop(module: nn.Module, *_: Any) -> None:
        if module.training is first:
            raise KilledError

    model.register_forward_pre_hook(stop)
    before = set(active_children())
    with pytest.raises(KilledError) as error:
        fit(model, data, BASIC, output=tmp_path, machine=Machine(num_workers=1))
    assert error.traceback  # it keeps the loaders alive
    assert set(active_children()) == before


def test_worker_processes_end_with_a_failed_evaluation(data: ImageData) -> None:
    model = small()

    def fail(*_: Any) -> None:
        raise KilledError

    model.register_forward_pre_hook(fail)
    before = set(active_children())
    with pytest.raises(KilledError) as error:
        evaluate(model, data.test, machine=Machine(num_workers=1))
    assert error.traceback
    assert set(active_children()) == before


def test_a_truncated_checkpoint_does_not_replace_the_last_one(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the second checkpoint is being written."""
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; the previous .*last\.ckpt"):
        fit(small(), data, BASIC, output=tmp_path)
    (left,) = (tmp_path / "checkpoints").iterdir()
    assert torch.load(left, weights_only=True)["loop"]["epoch"] == 1
    resumed = small()
    fit(resumed, data, BASIC, output=tmp_path, resume=True)
    (a, _), b = uninterrupted("one-cycle with adam"), state(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_checkpoint_cannot_run_code(data: ImageData, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    with pytest.raises(KilledError):
        fit(small(), data, BASIC, output=tmp_path, on_epoch_end=stop_after(1))
    torch.save({"state_dict": Evil()}, tmp_path / "checkpoints" / "stage-1-last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is corrupted"):
        fit(small(), data, BASIC, output=tmp_path, resume=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["an average of weights", "early stopping", "the best epoch"])
def test_a_run_killed_after_its_last_checkpoint_ends_with_identical_weights(
    data: ImageData, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPES[name], num_epochs=6)
    whole = small()
    expected = fit(whole, data, recipe)

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(StageRun, "_save_result", die)
        with pytest.raises(KilledError):
            fit(small(), data, recipe, output=tmp_path)
    resumed = small()
    history = fit(resumed, data, recipe, output=tmp_path, resume=True)
    a, b = state(whole), state(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert history["val_acc"] == expected["val_acc"]


def test_a_signal_in_a_stages_last_step_is_not_lost(data: ImageData, tmp_path: Path) -> None:
    recipe = RECIPES["two stages"]

    def stop(row: dict[str, float]) -> None:
        if row["epoch"] == 2:  # the last epoch; its checkpoint is written afterwards
            # Without a handler, the signal would silently terminate the test process.
            assert callable(signal.getsignal(signal.SIGTERM))
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TrainingStopped, match="SIGTERM in epoch 2"):
        fit(small(), data, recipe, output=tmp_path, on_epoch_end=stop)
    resumed = small()
    assert len(fit(resumed, data, recipe, output=tmp_path, resume=True).rows) == 4
    (a, _), b = uninterrupted("two stages"), state(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
@pytest.mark.parametrize("step", [1, 2, 4, 6, 8])
@pytest.mark.parametrize(
    "name", ["one-cycle with adam", "an average of weights", "accumulated gradients"]
)
def test_a_signal_saves_after_the_step_and_the_run_resumes_to_identical_weights(
    data: ImageData, tmp_path: Path, number: signal.Signals, step: int, name: str
) -> None:
    """An epoch has four steps; the signal arrives within an epoch or at its end."""
    recipe = RECIPES[name]
    cut, resumed = small(), small()
    steps = []  # of gradients, if they are accumulated
    step *= recipe.accumulate_grad_batches

    def interrupt(module: nn.Module, *_: Any) -> None:
        if module.training:
            steps.append(module)
            if len(steps) == step - recipe.accumulate_grad_batches + 1:
                signal.raise_signal(number)

    cut.register_forward_pre_hook(interrupt)
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(TrainingStopped, match=f"stopped by {number.name}") as stopped:
        fit(cut, data, recipe, output=tmp_path)
    assert stopped.value.status == 128 + number
    assert len(steps) == step  # training stopped after that step
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    history = fit(resumed, data, recipe, output=tmp_path, resume=True)
    assert history["epoch"] == [1, 2, 3, 4]
    (a, _), b = uninterrupted(name), state(resumed)
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("ema", [0.0, 0.9], ids=["plain", "ema"])
def test_every_checkpoint_builds_the_same_network(
    data: ImageData, tmp_path: Path, ema: float
) -> None:
    """The checkpoints record options that their tensors do not show."""
    torch.manual_seed(0)
    model = cnnarch.lenet5(num_classes=4, activation="relu", pool="max")

    def interrupt(row: dict[str, float]) -> None:
        if row["epoch"] == 2:
            raise RuntimeError("stop")

    recipe = Recipe(num_epochs=3, batch_size=16, learning_rate=0.01, ema=ema)
    with pytest.raises(RuntimeError, match="stop"):
        fit(model, data, recipe, output=tmp_path, on_epoch_end=interrupt)
    (last,) = (tmp_path / "checkpoints").glob("*last.ckpt")
    assert cnnarch.lenet5(weights=last).options == model.options
    fit(model, data, recipe, output=tmp_path, resume=True)
    (result,) = (tmp_path / "checkpoints").glob("*result.ckpt")
    again = cnnarch.lenet5(weights=result).eval()
    assert again.options == model.options
    images = data.test.inputs(torch.arange(8))
    with torch.no_grad():
        assert torch.equal(again(images), model(images))


@pytest.mark.parametrize("fails", [False, True])
def test_worker_processes_end_with_the_run(data: ImageData, fails: bool) -> None:
    """They ignore signals, so a run that forgot them would never exit."""
    workers: list[int] = []

    def look(_: dict[str, float]) -> None:
        workers.append(len(multiprocessing.active_children()))
        if fails:
            raise KilledError

    before = len(multiprocessing.active_children())
    with pytest.raises(KilledError) if fails else nullcontext() as caught:
        fit(
            small(),
            data,
            replace(BASIC, num_epochs=1),
            machine=Machine(num_workers=1),
            on_epoch_end=look,
        )
    assert workers == [before + 2]  # for the training and the validation images
    assert len(multiprocessing.active_children()) == before, caught


def test_a_full_disk_before_the_first_checkpoint_is_said(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device; nothing was saved"):
        fit(small(), data, BASIC, output=tmp_path)
