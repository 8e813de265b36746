"""Overlapping of batches, the choice of a batch size, and errors about memory."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.cli import main
from cnnarch.devices import Transfer, available_device, choose_batch_size, start_ahead
from cnnarch.inference import Predictor
from cnnarch.weights import Preprocessing


@pytest.mark.parametrize(
    ("ahead", "events"),
    [
        (0, ["start 0", "use 0", "start 1", "use 1", "start 2", "use 2"]),
        (1, ["start 0", "start 1", "use 0", "start 2", "use 1", "use 2"]),
    ],
)
def test_the_next_item_starts_before_one_is_used(ahead: int, events: list[str]) -> None:
    found: list[str] = []

    def start(item: int) -> int:
        found.append(f"start {item}")
        return 10 * item

    for item, result in start_ahead(range(3), start, ahead=ahead):
        assert result == 10 * item
        found.append(f"use {item}")
    assert found == events


@pytest.mark.parametrize("ahead", [0, 1])
def test_items_before_an_error_are_not_lost(ahead: int) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise OSError("unreadable")

    started = start_ahead(items(), str, ahead=ahead)
    assert [next(started), next(started)] == [(1, "1"), (2, "2")]
    with pytest.raises(OSError, match="unreadable"):
        next(started)


def test_a_loop_that_stops_early_starts_nothing_else() -> None:
    started: list[int] = []
    for item, _ in start_ahead(range(9), started.append, ahead=1):
        if item == 2:
            break
    assert started == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda _: 1.0, 256),  # only launching takes time
        (lambda size: size / 100, 16),  # the GPU is busy with 16 images already
        (lambda size: 0.1 + size / 100, 128),  # 92.8 images per second, 96.2 at 256
        (lambda size: max(1.0, size / 64), 64),
        (lambda size: 1.0 if size < 64 else 1000.0, 32),
    ],
)
def test_the_smallest_batch_that_is_nearly_fastest_is_chosen(
    seconds: Callable[[int], float], expected: int
) -> None:
    assert choose_batch_size(seconds) == expected


@pytest.mark.parametrize(("room", "expected"), [(100, 64), (20, 16), (2, 16)])
def test_batches_that_do_not_fit_are_not_chosen(room: int, expected: int) -> None:
    def seconds(size: int) -> float:
        if size > room:
            raise torch.OutOfMemoryError
        return 1.0

    assert choose_batch_size(seconds) == expected


class OnGPU(Transfer):
    """Reports that the CPU overlaps with the device, and counts results that are waited for."""

    waited = 0

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.overlaps = True

    def to_host(self, *results: Tensor) -> Callable[[], list[Tensor]]:
        def wait() -> list[Tensor]:
            type(self).waited += 1
            return list(results)

        return wait


class Counts(nn.Module):
    """A network that records how many results the CPU had waited for at each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.waited: list[int] = []

    def forward_features(self, x: Tensor) -> Tensor:
        self.waited.append(OnGPU.waited)
        return x.mean((2, 3), keepdim=True) * self.weight

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:  # noqa: ARG002
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_predictor_and_embed_compute_one_batch_ahead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cnnarch.inference.predictor.Transfer", OnGPU)
    monkeypatch.setattr("cnnarch.embedding.Transfer", OnGPU)
    one = (1.0, 1.0, 1.0)
    preprocessing = Preprocessing(4, 4, mean=(0.0, 0.0, 0.0), std=one)
    pixels = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    expected = (pixels / 255).mean((2, 3))

    OnGPU.waited, model = 0, Counts().eval()
    found = Predictor(model, preprocessing, batch_size=1, top=3)(pixels)
    assert model.waited == [0, 0, 1, 2, 3]
    for prediction, row in zip(found, expected.softmax(1).tolist(), strict=True):
        assert prediction.probabilities == pytest.approx(sorted(row, reverse=True), abs=1e-6)

    OnGPU.waited, model = 0, Counts().eval()
    options = {"batch_size": 1, "preprocessing": preprocessing}
    features = cnnarch.embed(model, pixels, **options).features
    assert model.waited == [0, 0, 1, 2, 3]
    assert np.allclose(features, expected.numpy(), atol=1e-6)
    saved = cnnarch.embed(model, pixels, output=tmp_path / "features.npy", **options)
    assert np.array_equal(saved.features, features)


class Full(Counts):
    def forward_features(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(x)} MiB")


@pytest.mark.parametrize(
    "call",
    [
        lambda pixels, scaling: cnnarch.embed(Full(), pixels, preprocessing=scaling),
        lambda pixels, scaling: Predictor(Full(), scaling)(pixels),
    ],
    ids=["embed", "Predictor"],
)
def test_a_lack_of_memory_is_explained(call: Callable[..., object]) -> None:
    message = r"a batch of 3 images of shape \(3, 8, 8\): use a smaller batch.*allocate 3 MiB"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        call(torch.zeros(3, 3, 8, 8, dtype=torch.uint8), Preprocessing(8, 8))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:99", r"there is no GPU 'cuda:99': PyTorch finds \d+ CUDA GPUs; use cpu"),
        ("gpu", "there is no device 'gpu'; use cpu, cuda or cuda:1"),
    ],
)
def test_a_missing_device_is_an_error(
    name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=message):
        available_device(name)
    assert available_device("cpu") == torch.device("cpu")
    assert main(["predict", "a.png", "--model", "lenet5", "--device", name]) != 0
    assert re.search(message, capsys.readouterr().err)
