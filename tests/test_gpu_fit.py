"""The loops by hand of the GPU benchmark are what `fit` is compared with."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import pad

from benchmarks import gpu_fit
from benchmarks.gpu_fit import PADDING, TINY_CASES, LoopByHand, crop_and_flip
from benchmarks.gpu_setup import Setup, noise_data
from cnnarch.training import fit

CASE = TINY_CASES["crops and flips"]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_shifted_and_flipped_by_hand(channels: int) -> None:
    torch.manual_seed(0)
    image = torch.randint(1, 256, (channels, 9, 7), dtype=torch.uint8)
    padded, found = pad(image, [PADDING] * 4), set()
    shifts = [(top, left) for top in range(5) for left in range(5)]
    views: dict[Any, Tensor] = {
        (top, left, flipped): view.flip(-1) if flipped else view
        for top, left in shifts
        for view in [padded[:, top : top + 9, left : left + 7]]
        for flipped in (False, True)
    }
    for out in crop_and_flip(image.repeat(2000, 1, 1, 1)):
        (place,) = [place for place, view in views.items() if torch.equal(out, view)]
        found.add(place)
    assert found == views.keys()


def test_the_loop_by_hand_trains_on_every_full_batch() -> None:
    loop = LoopByHand(Setup("cpu", tiny=True), CASE, noise_data(40, 4, 1, 28), "eager")
    before = [p.clone() for p in loop.network.parameters()]
    steps: list[tuple[int, ...]] = []
    train = loop.step

    def step(images: Tensor, labels: Tensor) -> object:
        steps.append((*images.shape, len(labels)))
        return train(images, labels)

    loop.step = step
    loop.epoch()
    assert steps == [(16, 1, 28, 28, 16)] * 2  # 8 of 40 images are left over
    after = list(loop.network.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_loop_by_hand_normalizes_as_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    data, setup = noise_data(16, 4, 1, 28), Setup("cpu", tiny=True)
    monkeypatch.setattr(gpu_fit, "crop_and_flip", lambda images: images)
    images, labels = LoopByHand(setup, CASE, data, "eager")._load(torch.arange(16))
    torch.testing.assert_close(images, data.train.inputs(torch.arange(16)))
    assert labels.tolist() == data.train.labels.tolist()


def test_images_are_augmented_on_the_gpu() -> None:
    with FakeTensorMode():
        pixels = torch.zeros(4, 1, 28, 28, dtype=torch.uint8, device="cuda")
        assert crop_and_flip(pixels).device == pixels.device


@pytest.mark.parametrize("label", TINY_CASES)
def test_ratios_compare_fit_with_the_fastest_loop_by_hand(
    label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"eager": 2.0, "captured": 1.5}
    monkeypatch.setattr(
        gpu_fit,
        "time_by_hand",
        lambda *args: {"epoch_s": seconds[args[-1]], "peak_GiB": 1.0},
    )
    monkeypatch.setattr(
        gpu_fit, "time_fit", lambda *_: ({"epoch_s": 2.0, "peak_GiB": 1.04}, {"step": "x"})
    )
    case = TINY_CASES[label]._replace(modes=("eager", "captured"))
    figures = gpu_fit.compare(Setup("cuda", tiny=True), case)
    assert (figures["speed_ratio"], figures["memory_ratio"]) == (0.75, 1.04)
    assert figures["images_per_s"] == case.count / 2
    assert figures["captured_by_hand_epoch_s"] == 1.5
    assert figures["setup"] == {"step": "x"}


@pytest.mark.parametrize("label", gpu_fit.CASES)
def test_fit_trains_as_the_loops_by_hand(label: str) -> None:
    """On a GPU, at least 2,000 steps are compiled with `compile: auto`."""
    case = gpu_fit.CASES[label]
    recipe = case.recipe()
    steps = case.count // case.batch * case.epochs
    is_compiled = recipe.compile is True or (recipe.compile == "auto" and steps >= 2000)
    assert is_compiled == ("eager" not in case.modes or "captured" in case.modes)
    assert (recipe.crop_padding, recipe.flip) == ((2, True) if case.side == 28 else (0, False))
    assert recipe.validation == 0
    assert recipe.batch_size == case.batch


def test_only_the_first_epoch_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The median of 7, 1 and 2 seconds is 2."""
    times = iter([0.0, 50.0, 57.0, 58.0, 60.0])
    monkeypatch.setattr(gpu_fit.time, "perf_counter", lambda: next(times))

    def trained(*_: object, on_epoch_end: Any, **__: object) -> Any:
        for _epoch in range(4):
            on_epoch_end({})
        return type("History", (), {"setup": {"step": "eager"}})

    monkeypatch.setattr(gpu_fit, "fit", trained)
    assert gpu_fit.fit is not fit
    figures, how = gpu_fit.time_fit(Setup("cpu", tiny=True), CASE, noise_data(32, 4, 1, 28))
    assert figures == {"first_epoch_s": 50.0, "epoch_s": 2.0}
    assert how == {"step": "eager"}
