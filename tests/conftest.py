"""What all tests share: which networks to run on, seeded randomness, no network."""

import gc
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import cnnarch
from cnnarch.facts.cards import ModelCard
from tests.forks import Forks
from tests.small_forms import (
    MANY_PARAMETERS,
    Build,
    calibrated,
    distinct_forms,
    distinct_stages,
    small_forms,
)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime themselves


FORMS = {
    "small_form": small_forms,
    "distinct_form": distinct_forms,
    "distinct_stages_form": distinct_stages,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="every network beside the small forms; slow tests",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs in make test-all"))


def pytest_collection_finish() -> None:
    """What imports and collection have made stays: collectors of garbage need not look at it."""
    gc.collect()
    gc.freeze()


def one_of_each_kind() -> list[str]:
    """The cheapest network of each family, and of each kind that a family names (plain, resnet).

    Those of many parameters wait for `--all`; their structure has a small form.
    """
    cheapest: dict[tuple[str, str], ModelCard] = {}
    for card in map(cnnarch.get_card, cnnarch.list_models()):
        kind = re.match("[a-z]+", card.name)
        key = (card.family, kind[0] if kind else "")
        if key not in cheapest or card.macs < cheapest[key].macs:
            cheapest[key] = card
    return sorted(card.name for card in cheapest.values() if card.params < MANY_PARAMETERS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what takes a form on small forms, and what takes `model_name` on networks by name.

    With `--all`, either runs on every network of the registry too. What takes both, such as a
    test of saving, needs a builder: its form is the network of that name.
    """
    every = metafunc.config.getoption("--all")
    names = cnnarch.list_models() if every else one_of_each_kind()
    networks = {name: cnnarch.get_model_builder(name) for name in names}
    wanted = set(metafunc.fixturenames)
    # The scope lets pytest run all tests of one network before those of the next.
    if {"model_name", "small_form"} <= wanted:
        cases = networks.items()
        metafunc.parametrize(("model_name", "small_form"), cases, ids=names, scope="session")
    elif "model_name" in wanted:
        metafunc.parametrize("model_name", names, scope="session")
    elif forms := wanted & FORMS.keys():
        (fixture,) = forms
        builders = FORMS[fixture]() | (networks if every else {})
        metafunc.parametrize(fixture, builders.values(), ids=[*builders], scope="session")


@pytest.fixture
def model(small_form: Build) -> cnnarch.ImageClassifier:
    """A small form in eval mode with a spread in its logits; shared, so leave it as it is."""
    return calibrated(small_form)


@pytest.fixture
def distinct_model(distinct_form: Build) -> cnnarch.ImageClassifier:
    """As `model`, one for each kind of layer: for checks that need seconds on any network."""
    return calibrated(distinct_form)


@pytest.fixture
def distinct_stages_model(distinct_stages_form: Build) -> cnnarch.ImageClassifier:
    """As `model`, one for each type of layer that ends a stage."""
    return calibrated(distinct_stages_form)


@pytest.fixture
def builder(model_name: str) -> Build:
    return cnnarch.get_model_builder(model_name)


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
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without their ten pictures, which take longer than a short training does."""
    monkeypatch.setattr("cnnarch.training.run.draw_pictures", lambda *_: [])


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported torch and cnnarch alone; its forks start at once."""
    forks = Forks(tmp_path_factory.mktemp("forks"), "import torch, cnnarch")
    yield forks
    forks.close()
