"""Fixtures and hooks for all tests: parametrized networks, fixed seeds, no internet access."""

import gc
import os
import re
import socket
from collections.abc import Iterator
from functools import cache
from typing import Any
from zlib import crc32

import pytest
import torch

import cnnarch
from cnnarch.facts.cards import ModelCard
from tests.forks import Forks
from tests.small_forms import (
    MANY_PARAMETERS,
    Build,
    calibrated,
    common_forms,
    distinct_forms,
    distinct_stages,
    small_forms,
    structures,
)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime directly


CONTRACT = "tests.test_contract"
FORMS = {
    "small_form": small_forms,
    "distinct_form": distinct_forms,
    "distinct_stages_form": distinct_stages,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all",
        action="store_true",
        help="also run on every full-size network, and run slow tests",
    )
    parser.addoption(
        "--shard",
        default="1/1",
        help="run one part of the tests, such as 2/6; the parts together are all tests",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, count = map(int, config.getoption("--shard").split("/"))
    if not 1 <= number <= count:
        raise pytest.UsageError(f"--shard is {number}/{count}; the first number is 1 to {count}")
    items[:] = [item for item in items if crc32(item.nodeid.encode()) % count == number - 1]
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run by make test-all"))


def pytest_collection_finish() -> None:
    """Exclude objects created by imports and collection from garbage collection."""
    gc.collect()
    gc.freeze()


@cache
def one_of_each_kind() -> list[str]:
    """Return the cheapest network of each family and of each name prefix (plain, resnet).

    Networks with many parameters run only with `--all`. Small forms cover their structure.
    """
    cheapest: dict[tuple[str, str], ModelCard] = {}
    for card in map(cnnarch.get_card, cnnarch.list_models()):
        kind = re.match("[a-z]+", card.name)
        key = (card.family, kind[0] if kind else "")
        if key not in cheapest or card.macs < cheapest[key].macs:
            cheapest[key] = card
    return sorted(card.name for card in cheapest.values() if card.params < MANY_PARAMETERS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests with a form fixture on small forms, and tests with `model_name` on networks.

    With `--all`, both also run on every registered network. In a test with both fixtures,
    `small_form` is the builder of the network called `model_name`.
    """
    every = metafunc.config.getoption("--all")
    names = cnnarch.list_models() if every else one_of_each_kind()
    networks = {name: cnnarch.get_model_builder(name) for name in names}
    wanted = set(metafunc.fixturenames)
    # With session scope, pytest runs all tests of one network before those of the next.
    if {"model_name", "small_form"} <= wanted:
        cases = networks.items()
        metafunc.parametrize(("model_name", "small_form"), cases, ids=names, scope="session")
    elif "model_name" in wanted:
        metafunc.parametrize("model_name", names, scope="session")
    elif forms := wanted & FORMS.keys():
        (fixture,) = forms
        builders = FORMS[fixture]() | (networks if every else {})
        rare = set()
        if fixture == "small_form":
            in_contract = metafunc.module.__name__ == CONTRACT
            rare = builders.keys() - (structures() if in_contract else common_forms()).keys()
        cases = [
            pytest.param(build, id=name, marks=pytest.mark.slow if name in rare else ())
            for name, build in builders.items()
        ]
        metafunc.parametrize(fixture, cases, scope="session")


@pytest.fixture
def model(small_form: Build) -> cnnarch.ImageClassifier:
    """A small form in eval mode with calibrated statistics. It is shared, so do not modify it."""
    return calibrated(small_form)


@pytest.fixture
def distinct_model(distinct_form: Build) -> cnnarch.ImageClassifier:
    """Like `model`, but only for forms that together cover every kind of layer (slow checks)."""
    return calibrated(distinct_form)


@pytest.fixture
def distinct_stages_model(distinct_stages_form: Build) -> cnnarch.ImageClassifier:
    """Like `model`, but only for forms that together cover every type of final layer in a stage."""
    return calibrated(distinct_stages_form)


@pytest.fixture
def builder(model_name: str) -> Build:
    return cnnarch.get_model_builder(model_name)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow connections to this machine only."""
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
    """Skip the ten plots at the end of a run, which take longer than a short training run."""
    monkeypatch.setattr("cnnarch.training.run.draw_pictures", lambda *_: [])


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process that has imported only torch and cnnarch, so its forks start quickly."""
    forks = Forks(tmp_path_factory.mktemp("forks"), "import torch, cnnarch")
    yield forks
    forks.close()
