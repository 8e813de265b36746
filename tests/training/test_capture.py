"""Captured training steps. A graph is replaced by the function that it records, except on a GPU."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import ImageData, Recipe, capture, fit, step
from cnnarch.training.capture import Method, choose_method

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
BASIC = Recipe(
    num_epochs=2,
    batch_size=16,
    learning_rate=0.02,
    validation=0.25,
    warmup_epochs=1,
    schedule="step",
    step_epochs=[1.5],
    precision="32-true",
)
RECIPES = {
    "warmup and milestones": BASIC,
    "one-cycle with adam": replace(BASIC, schedule="one-cycle", optimizer="adam"),
    "clipping and an average": replace(BASIC, clip_gradient=0.1, ema=0.9),
    "mixup": replace(BASIC, mixup=0.4, crop_padding=2, flip=True),
    "freezing, then not": replace(BASIC, freeze="C3", then=[{"freeze": False}]),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return cnnarch.lenet5_bn(num_classes=4)


def run_again(function: Any) -> Callable[[], None]:
    """Return a function with the effects of a graph: it writes to the tensors of the recording."""
    owner = function.__self__
    for _ in range(capture.WARMUP_STEPS + 1):
        function()
    torch.rand(3)  # as dropout would
    tensors = [p.grad for p in owner.model.parameters() if p.grad is not None] + [owner.metrics]

    def replay() -> None:
        function()
        new = [p.grad for p in owner.model.parameters() if p.grad is not None] + [owner.metrics]
        for old, now in zip(tensors, new, strict=True):
            old.copy_(now)
        owner.metrics = tensors[-1]

    return replay


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Method]:
    """Capture all steps."""
    chosen: list[Method] = []

    def choose(*_: Any) -> Method:
        chosen.append(Method(captured=True))
        return chosen[-1]

    monkeypatch.setattr(capture, "record_graph", run_again)
    monkeypatch.setattr(step, "choose_method", choose)
    return chosen


@pytest.mark.parametrize("name", RECIPES)
def test_captured_steps_train_to_the_same_weights(
    data: ImageData, name: str, captured: list[Method]
) -> None:
    recipe = RECIPES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "choose_method", lambda *_: Method(reason="for comparison"))
        expected = network()
        rows = fit(expected, data, recipe).rows
    found = network()
    history = fit(found, data, recipe)
    assert len(captured) == len(list(recipe.stages()))
    assert history.setup["step"] == "captured in a CUDA graph"
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    for row, other in zip(rows, history.rows, strict=True):
        assert row | {"seconds": 0} == other | {"seconds": 0}


@pytest.mark.usefixtures("captured")
def test_a_step_that_cannot_be_captured_is_trained_in_eager_mode(
    data: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(function: Callable[[], None]) -> Any:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    expected, found = network(), network()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "choose_method", lambda *_: Method())
        fit(expected, data, BASIC)
    monkeypatch.setattr(capture, "record_graph", fail)
    used = fit(found, data, BASIC).setup["step"]
    assert used == (
        "eager (the step cannot be captured: operation not permitted when stream is capturing)"
    )
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    with pytest.raises(RuntimeError, match="not permitted"):
        fit(network(), data, replace(BASIC, compile=True))


def test_tensors_of_another_shape_do_not_fit_a_graph() -> None:
    model = network()

    def compute(inputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss.detach()

    gradients = capture.CapturedGradients(compute, model, run_again)
    images, labels = torch.rand(4, 1, 32, 32), torch.arange(4)
    gradients(images, labels)
    assert gradients.fits(images.double().float(), labels)
    assert not gradients.fits(images[:3], labels[:3])
    assert not gradients.fits(images, torch.eye(4))


@pytest.mark.parametrize(
    ("change", "device", "processes", "steps", "expected"),
    [
        ({}, CPU, 1, 10**6, "eager (not on a CUDA device)"),
        ({"compile": False}, CUDA, 1, 10**6, "eager (compile: false)"),
        ({}, CUDA, 1, 99, "eager (only 99 steps)"),
        ({}, CUDA, 1, 100, "captured in a CUDA graph"),
        ({}, CUDA, 1, 2000, "compiled and captured in a CUDA graph"),
        ({"compile": True}, CUDA, 1, 1, "compiled and captured in a CUDA graph"),
        ({}, CUDA, 2, 10**6, "eager (several processes)"),
        ({"compile": True}, CUDA, 2, 10**6, "compiled"),
        ({"compile": True}, CPU, 1, 1, "compiled"),
        ({"accumulate_grad_batches": 2}, CUDA, 1, 10**6, "eager (accumulated gradients)"),
    ],
)
def test_the_method_depends_on_the_device_and_the_length_of_the_run(
    change: dict[str, Any], device: torch.device, processes: int, steps: int, expected: str
) -> None:
    recipe = replace(Recipe(), **change)
    assert str(choose_method(recipe, network(), device, processes, steps)) == expected


def test_a_network_with_hooks_or_from_elsewhere_is_not_captured() -> None:
    model = network()
    model.register_forward_hook(lambda *_: None)
    method = choose_method(Recipe(), model, CUDA, 1, 10**6)
    assert not method.captured
    assert "hooks" in str(method)
    assert "not from cnnarch" in str(choose_method(Recipe(), nn.Flatten(), CUDA, 1, 10**6))
    chosen = choose_method(Recipe(compile=True), nn.Flatten(), CUDA, 1, 1)
    assert chosen.captured


def test_compile_true_compiles_on_a_cpu(data: ImageData) -> None:
    recipe = replace(BASIC, num_epochs=1, compile=True)
    expected, found = network(), network()
    fit(expected, data, replace(recipe, compile=False))
    assert fit(found, data, recipe).setup["step"] == "compiled"
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-3, atol=1e-4)
