"""The loops by hand of the GPU benchmark on a GPU."""

import pytest
import torch

from benchmarks.gpu_fit import TINY_CASES, LoopByHand
from benchmarks.gpu_setup import Setup, noise_data
from benchmarks.measure import card

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("mode", ["eager", "captured"])
def test_an_epoch_by_hand_learns_the_images(mode: str) -> None:
    setup, data = Setup("cuda", tiny=True), noise_data(16, 4, 1, 28)
    loop = LoopByHand(setup, TINY_CASES["plain"]._replace(batch=16, side=28), data, mode)
    losses = []
    for _ in range(40):
        loop.epoch()
        with torch.no_grad():
            logits = loop.network(loop._load(torch.arange(16))[0])
        losses.append(torch.nn.functional.cross_entropy(logits, loop.labels).item())
    assert losses[-1] < 0.5 * losses[0]


def test_memory_is_counted_from_the_current_state() -> None:
    kept = torch.zeros(2**24, dtype=torch.uint8, device="cuda")
    found = Setup("cuda", tiny=True).peak_bytes(lambda: torch.zeros_like(kept[: 2**23]))
    assert found == 2**23


def test_the_card_is_described() -> None:
    found = card()
    assert found["card"]
    assert found["driver"]
