"""Training on a GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.training import ImageData, Machine, evaluate, fit
from tests.training.conftest import sides
from tests.training.test_capture import RECIPES, network
from tests.training.test_resume import KilledError, stop_after

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

GPU, CPU = Machine(accelerator="gpu"), Machine(accelerator="cpu")
BASIC = RECIPES["warmup and milestones"]


@pytest.fixture
def data() -> ImageData:
    return sides()


def difference(a: nn.Module, b: nn.Module) -> float:
    """Return the largest difference between two networks' weights, relative to the largest one."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(float((p - q).abs().max() / q.abs().max()) for p, q in pairs)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_steps_train_like_eager_steps(data: ImageData, name: str, compiled: bool) -> None:
    eager, captured = network(), network()
    first = fit(eager, data, replace(RECIPES[name], compile=False), machine=GPU)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr("cnnarch.training.capture.MIN_CAPTURED_STEPS", 0)
        chosen = True if compiled else "auto"
        second = fit(captured, data, replace(RECIPES[name], compile=chosen), machine=GPU)
    assert "captured in a CUDA graph" in second.setup["step"]
    assert difference(captured, eager) < 1e-2
    assert second["train_loss"] == pytest.approx(first["train_loss"], rel=1e-2)


def test_dropout_draws_new_numbers_in_every_captured_step(data: ImageData) -> None:
    """With a learning rate of 0, only dropout changes the loss of a repeated batch."""
    model = cnnarch.alexnet_owt(num_classes=4, in_channels=1)
    images = data.prepared(replace(data.preprocessing, crop_size=64, resize_size=64))
    few = images._replace(train=images.train.subset(torch.arange(16)))
    recipe = replace(
        BASIC, num_epochs=6, learning_rate=0.0, validation=0.0, warmup_epochs=0, compile=True
    )
    losses = fit(model, few, recipe, machine=GPU)["train_loss"]
    assert len(set(losses)) == 6


@pytest.mark.parametrize(("first", "second"), [(GPU, CPU), (CPU, GPU)], ids=["to cpu", "to gpu"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_a_run_continues_on_another_device(
    data: ImageData, tmp_path: Path, first: Machine, second: Machine, optimizer: str
) -> None:
    recipe = replace(BASIC, optimizer=optimizer, learning_rate=1e-3, num_epochs=3, ema=0.9)
    whole, resumed = network(), network()
    expected = fit(whole, data, recipe, machine=first)
    with pytest.raises(KilledError):
        fit(network(), data, recipe, output=tmp_path, machine=first, on_epoch_end=stop_after(1))
    history = fit(resumed, data, recipe, output=tmp_path, resume=True, machine=second)
    assert history["train_loss"] == pytest.approx(expected["train_loss"], rel=0.05)
    assert {p.device.type for p in resumed.parameters()} == {"cpu"}


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "32-true"])
def test_networks_learn_in_every_precision(data: ImageData, precision: str) -> None:
    recipe = replace(BASIC, num_epochs=6, precision=precision, optimizer="adam", learning_rate=3e-3)
    model = network()
    fit(model, data, recipe, machine=GPU)
    assert evaluate(model, data.test, machine=GPU).top1 > 0.9


def test_evaluation_agrees_with_the_cpu_and_leaves_the_network_where_it_was(
    data: ImageData,
) -> None:
    model = network().cuda()
    found = evaluate(model, data.test, machine=GPU)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    expected = evaluate(model.cpu(), data.test, machine=CPU)
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    assert found.confusion.device.type == "cpu"


def test_steps_do_not_wait_for_the_gpu(data: ImageData) -> None:
    """After the first epoch, any operation that waits raises an error."""
    recipe = replace(BASIC, num_epochs=3, validation=0.0, ema=0.9, crop_padding=2, flip=True)
    calls = []

    def forbid_waiting(module: nn.Module, _: object) -> None:
        calls.append(module)
        if len(calls) == 8:  # an epoch has six steps
            torch.cuda.set_sync_debug_mode("error")
        if len(calls) == 11:
            torch.cuda.set_sync_debug_mode("default")

    model = network()
    model.register_forward_pre_hook(forbid_waiting)
    try:
        fit(model, data, replace(recipe, compile=False), machine=GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(calls) == 18


def test_synchronized_batchnorm_trains(data: ImageData) -> None:
    model = cnnarch.convert_norm(network(), "sync")
    history = fit(model, data, replace(BASIC, optimizer="adam"), machine=GPU)
    assert history["train_loss"][-1] < history["train_loss"][0]
