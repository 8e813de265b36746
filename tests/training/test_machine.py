"""Devices, precision and threads."""

from collections.abc import Iterator

import pytest
import torch

import cnnarch
from cnnarch.training.machine import Machine, is_small, set_threads_and_memory_format


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("images", "small"),
    [(32, True), (256, False)],  # 13 and 107 million multiply-adds (416,520 per image)
)
def test_a_step_below_a_hundred_million_multiply_adds_is_small(images: int, small: bool) -> None:
    assert is_small(cnnarch.lenet5(), (1, 32, 32), images) is small


def test_threads_and_memory_format_are_restored_even_after_an_error() -> None:
    model = cnnarch.lenet5()
    weight = next(p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1)

    def fail() -> None:
        with set_threads_and_memory_format(model, small=True, channels_last=True):
            assert torch.get_num_threads() == 1
            assert weight.is_contiguous(memory_format=torch.channels_last)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 2
    assert weight.is_contiguous()


def test_steps_of_networks_from_outside_cnnarch_are_never_small() -> None:
    assert not is_small(torch.nn.Linear(2, 2), (1, 32, 32), 1)


@pytest.mark.parametrize(
    ("capability", "small", "precision"),
    [
        ("amx_bf16", False, "bf16-mixed"),
        ("avx512_bf16", False, "bf16-mixed"),
        ("amx_bf16", True, "32-true"),
        ("avx512_f", False, "32-true"),
    ],
)
def test_bf16_is_selected_on_cpus_with_bf16_instructions(
    monkeypatch: pytest.MonkeyPatch, capability: str, small: bool, precision: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True}, raising=False)
    model, machine = cnnarch.resnet20_cifar(), Machine(accelerator="cpu")
    assert machine.precision("auto", model, small) == precision
    assert machine.precision("32-true", model, small) == "32-true"


def test_depthwise_convolutions_are_trained_in_float32_on_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    machine = Machine(accelerator="cpu")
    assert machine.precision("auto", cnnarch.mobilenet_v1()) == "32-true"
    assert machine.precision("auto", cnnarch.efficientnet_b0()) == "32-true"
    assert machine.precision("auto", cnnarch.se_resnext50_32x4d()) == "bf16-mixed"


@pytest.mark.parametrize("machine", [Machine(), Machine(devices=2, num_nodes=2)])
def test_the_number_of_started_processes_must_match(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun does
    with pytest.raises(ValueError, match="2 processes were started"):
        machine.check()
    Machine(devices=2).check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_accelerator_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="No supported gpu backend"):
        Machine(accelerator="gpu").check()
