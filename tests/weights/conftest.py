"""Fixtures: a local web server, temporary caches and a network to load."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cnnarch
from cnnarch.testing import calibrate
from tests.weights.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up empty caches for downloads and for torch.hub."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CNNARCH_CACHE", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return folder


@pytest.fixture
def hub(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Replace the Hugging Face Hub with the local server and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    return server


@pytest.fixture(scope="session")
def resnet() -> cnnarch.ImageClassifier:
    """Build a calibrated ResNet-18 in eval mode. Tests share the network and must not modify it."""
    torch.manual_seed(0)
    model = cnnarch.resnet18()
    calibrate(model, torch.randn(4, 3, 64, 64))
    return model.eval()


@pytest.fixture(scope="session")
def saved(resnet: cnnarch.ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save `resnet` and return its folder."""
    folder = tmp_path_factory.mktemp("saved")
    resnet.save_pretrained(folder)
    return folder
