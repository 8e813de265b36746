"""Public calls on a GPU return what they return on the CPU."""

import copy
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cnnarch
from cnnarch.inference import Predictor
from cnnarch.testing import assert_close, example_images
from tests.small_forms import Build, calibrated
from tests.test_gpu_calls import (
    COME_BACK,
    NORMALIZATION,
    STAY,
    Call,
    assert_same,
    inputs,
    listed,
    tensors_of,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def on_real_gpu() -> tuple[Any, Tensor, Tensor]:
    model, images, pixels = inputs(CPU)
    return model.to(GPU), images.to(GPU), pixels.to(GPU)


def gradients(model: cnnarch.ImageClassifier, images: Tensor) -> list[Tensor]:
    loss = model(images).square().sum()
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [g.cpu() for g in found if g is not None]  # auxiliary heads are not used


def test_logits_and_gradients_match_the_cpu(small_form: Build) -> None:
    model = calibrated(small_form)
    images = example_images(model, 2)
    copied = copy.deepcopy(model).to(GPU)
    assert_close(copied(images.to(GPU)).cpu(), model(images), 1e-3)
    ours, theirs = (
        torch.cat([g.double().flatten() for g in found])
        for found in (gradients(copied, images.to(GPU)), gradients(model, images))
    )
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999


@pytest.mark.parametrize("default", [None, "cuda"], ids=["default cpu", "default cuda"])
@pytest.mark.parametrize("call", STAY.values(), ids=[*STAY])
def test_results_stay_on_the_gpu(call: Call, default: str | None, tmp_path: Path) -> None:
    expected = call(*inputs(CPU), tmp_path)
    given = on_real_gpu()
    with torch.device(default) if default else nullcontext():
        found = call(*given, tmp_path)
    for ours, theirs in zip(listed(found), listed(expected), strict=True):
        assert ours.device == GPU
        assert_close(ours.cpu(), theirs, 1e-3)
    assert {t.device for t in tensors_of(given[0]).values()} == {GPU}


def draw(name: str, model: Any, images: Tensor, *_: object) -> list[str]:
    figure = getattr(cnnarch.viz, name)(model, images, preprocessing=NORMALIZATION)
    return [axes.get_title() for axes in figure.axes]


ATTRIBUTIONS = {name: partial(draw, name) for name in ("gradcam", "integrated_gradients")}


@pytest.mark.parametrize("default", [None, "cuda"], ids=["default cpu", "default cuda"])
@pytest.mark.parametrize(
    "call", [*COME_BACK.values(), *ATTRIBUTIONS.values()], ids=[*COME_BACK, *ATTRIBUTIONS]
)
def test_results_come_back_to_the_cpu(call: Call, default: str | None, tmp_path: Path) -> None:
    for name in ("cpu", "gpu"):
        (tmp_path / name).mkdir()
    expected = call(*inputs(CPU), tmp_path / "cpu")
    with torch.device(default) if default else nullcontext():
        found = call(*on_real_gpu(), tmp_path / "gpu")
    assert_same(found, expected, 1e-3)


def test_networks_are_built_and_loaded_on_the_gpu() -> None:
    expected, images, _ = inputs(CPU)
    with torch.device("cuda"):
        model = cnnarch.resnet20_cifar(weights=expected.state_dict()).eval()
        assert {t.device for t in tensors_of(model).values()} == {GPU}
    assert_close(model(images.to(GPU)).cpu(), expected(images), 1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_with_synchronized_norms_is_trained(checkpointing: bool) -> None:
    model, images, _ = on_real_gpu()
    converted = cnnarch.convert_norm(model, "sync").train()
    converted.set_grad_checkpointing(checkpointing)
    converted(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())


def test_predictor_and_embed_match_the_cpu_over_many_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (70, 3, 40, 40), generator=generator, dtype=torch.uint8)
    model, gpu_model = inputs(CPU)[0], on_real_gpu()[0]
    for size in (8, None):
        found = Predictor(gpu_model, NORMALIZATION, batch_size=size)(pixels)
        expected = Predictor(model, NORMALIZATION, batch_size=8)(pixels)
        assert [p.name for p in found] == [p.name for p in expected]
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-3)
        features = cnnarch.embed(gpu_model, pixels, batch_size=size, preprocessing=NORMALIZATION)
        ours, theirs = (
            torch.from_numpy(each.features)
            for each in (features, cnnarch.embed(model, pixels, preprocessing=NORMALIZATION))
        )
        assert_close(ours, theirs, 1e-3)
    assert Predictor(gpu_model, NORMALIZATION).batch_size in (16, 32, 64, 128, 256)


def test_pixels_are_scaled_to_the_same_bits() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 16, 16)
    assert torch.equal(NORMALIZATION.scale(pixels.to(GPU)).cpu(), NORMALIZATION.scale(pixels))
