"""What all tests share: which networks to run on, seeded randomness, no network."""

import gc
import os
import re
import socket
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.facts.cards import ModelCard
from cnnarch.testing import calibrate, example_images
from tests.forks import Forks

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="every network instead of each family's smallest; slow tests",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs in make test-all"))


def smallest_of_each_family() -> list[str]:
    """The cheapest network of each family, and of each kind that a family names (plain, resnet).

    A kind of which the cheapest costs 5 G multiply-adds waits for `--all`.
    """
    smallest: dict[tuple[str, str], ModelCard] = {}
    for card in map(cnnarch.get_card, cnnarch.list_models()):
        kind = re.match("[a-z]+", card.name)
        key = (card.family, kind[0] if kind else "")
        if key not in smallest or card.macs < smallest[key].macs:
            smallest[key] = card
    return sorted(card.name for card in smallest.values() if card.macs < 5e9)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `model_name` runs on every network, or on each family's smallest."""
    if "model_name" in metafunc.fixturenames:
        every = metafunc.config.getoption("--all")
        names = cnnarch.list_models() if every else smallest_of_each_family()
        # The scope lets pytest run all tests of one network before those of the next.
        metafunc.parametrize("model_name", names, scope="session")


@lru_cache(maxsize=2)  # the networks of the registry together take 20 GB
def _calibrated(name: str) -> cnnarch.ImageClassifier:
    gc.collect()  # optimizers refer to themselves, and so keep copies of the network before
    torch.manual_seed(0)
    model = cnnarch.get_model(name)
    calibrate(model, example_images(model, batch=8))
    return model


@pytest.fixture
def model(model_name: str) -> cnnarch.ImageClassifier:
    """The network in eval mode with a spread in its logits; shared, so leave it as it is."""
    return _calibrated(model_name)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests reach this machine alone."""
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = str(address[0])
            if not (host.startswith("127.") or host in ("localhost", "::1")):
                raise OSError(f"a test tried to reach {host}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)


@pytest.fixture
def builder(model_name: str) -> Callable[..., cnnarch.ImageClassifier]:
    return cnnarch.get_model_builder(model_name)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without their ten pictures, which take longer than a short training does."""
    monkeypatch.setattr("cnnarch.training.run.draw_pictures", lambda *_: [])


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported torch and cnnarch alone; its forks start at once."""
    forks = Forks(tmp_path_factory.mktemp("forks"), "import torch, cnnarch")
    yield forks
    forks.close()
