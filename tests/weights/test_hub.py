"""Downloads from a local server that implements the Hugging Face Hub's protocol."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import cnnarch
from cnnarch.testing import assert_close
from cnnarch.weights import WeightsError, export
from cnnarch.weights.hub import HubName, parse_hub_name
from tests.forks import Forks
from tests.weights.server import COMMIT, Fault, Server

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TIMM_CONFIG = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


@pytest.fixture
def repository(hub: Server, saved: Path) -> Server:
    """Serve the saved files as the repository owner/net."""
    hub.repositories["owner/net"] = {p.name: p.read_bytes() for p in saved.iterdir()}
    return hub


def blob(server: Server, name: str = "model.safetensors") -> str:
    return f"/blobs/{hashlib.sha256(server.repositories['owner/net'][name]).hexdigest()}"


def test_names_have_an_owner_and_may_have_a_revision() -> None:
    assert parse_hub_name("hf-hub:a/b") == HubName("a/b")
    assert parse_hub_name("hf-hub:a/b@refs/pr/1") == HubName("a/b", "refs/pr/1")
    for wrong in ("hf-hub:b", "hf-hub:a/b/c", "hf-hub:", "hf-hub:a/b@"):
        with pytest.raises(WeightsError, match=r"hf-hub:owner/name\[@revision\], got"):
            parse_hub_name(wrong)


def test_a_cnnarch_repository_loads(repository: Server, resnet: cnnarch.ImageClassifier) -> None:
    model = cnnarch.resnet18(weights="hf-hub:owner/net").eval()
    with torch.no_grad():
        assert_close(model(X), resnet(X), 0.0)
    assert repository.gets()[blob(repository)] == 1
    cnnarch.resnet18(weights="hf-hub:owner/net")
    assert repository.gets()[blob(repository)] == 1


def test_a_timm_repository_loads_with_its_preprocessing(
    hub: Server, resnet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    save_file(export(resnet, "timm"), tmp_path / "model.safetensors", {"format": "pt"})
    hub.repositories["timm/resnet18.a1_in1k"] = {
        "config.json": json.dumps(TIMM_CONFIG).encode(),
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
    }
    found = [cnnarch.from_pretrained("timm/resnet18.a1_in1k")]
    found += [
        cnnarch.resnet18(weights=weights)
        for weights in ("hf-hub:timm/resnet18.a1_in1k", "TIMM_A1_IN1K")
    ]
    for model in found:
        with torch.no_grad():
            assert_close(model.eval()(X), resnet(X), 0.0)
    model = cnnarch.resnet18(weights="hf-hub:timm/resnet18.a1_in1k", num_classes=4)
    preprocessing = model.preprocessing  # type: ignore[attr-defined]
    assert (preprocessing.crop_size, preprocessing.resize_size) == (224, 235)
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert model.categories is None  # type: ignore[attr-defined]


def test_a_repository_with_only_a_pickle_is_read_without_executing_it(
    hub: Server, resnet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    torch.save(resnet.state_dict(), tmp_path / "w.bin")
    hub.repositories["owner/net"] = {"pytorch_model.bin": (tmp_path / "w.bin").read_bytes()}
    model = cnnarch.resnet18(weights="hf-hub:owner/net").eval()
    with torch.no_grad():
        assert_close(model(X), resnet(X), 0.0)


def test_an_interrupted_download_resumes(repository: Server) -> None:
    repository.faults[blob(repository)] = [Fault(cut_after=20_000_000)]
    cnnarch.resnet18(weights="hf-hub:owner/net")
    ranges = [r for m, p, r in repository.requests if m == "GET" and p == blob(repository)]
    assert len(ranges) == 2
    assert ranges[0] is None
    start = int(str(ranges[1]).removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 20_000_000


def test_a_slow_hub_does_not_fail(repository: Server) -> None:
    repository.faults[blob(repository)] = [Fault(pause=0.1)]
    cnnarch.resnet18(weights="hf-hub:owner/net")


def test_content_with_the_wrong_hash_is_downloaded_again(repository: Server) -> None:
    content = repository.repositories["owner/net"]["model.safetensors"]
    changed = content[:-1] + bytes([content[-1] ^ 1])
    repository.faults[blob(repository)] = [Fault(body=changed)]
    cnnarch.resnet18(weights="hf-hub:owner/net")
    assert repository.gets()[blob(repository)] == 2


def test_wrong_content_twice_raises_and_leaves_no_file(repository: Server, tmp_path: Path) -> None:
    content = repository.repositories["owner/net"]["model.safetensors"]
    changed = content[:-1] + bytes([content[-1] ^ 1])
    repository.faults[blob(repository)] = [Fault(body=changed)] * 2
    with pytest.raises(WeightsError, match=r"the hub lists sha256 [0-9a-f]{64}, got") as caught:
        cnnarch.resnet18(weights="hf-hub:owner/net")
    assert str(tmp_path / "hub") in str(caught.value)
    assert not list((tmp_path / "hub").rglob("model.safetensors"))
    assert not [p for p in (tmp_path / "hub").rglob("*") if p.is_file() and p.stat().st_size > 1e6]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.usefixtures("repository")
def test_a_corrupt_file_in_the_cache_is_downloaded_again(tmp_path: Path, name: str) -> None:
    cnnarch.resnet18(weights="hf-hub:owner/net")
    (pointer,) = (tmp_path / "hub").rglob(name)
    content = pointer.read_bytes()
    pointer.resolve().write_bytes(content[:-2] + b"!!")
    cnnarch.resnet18(weights="hf-hub:owner/net")
    assert pointer.read_bytes() == content


def test_a_missing_repository_or_file_raises_a_clear_error(repository: Server) -> None:
    with pytest.raises(WeightsError, match=r"owner/none cannot be downloaded \(RepositoryNot"):
        cnnarch.resnet18(weights="hf-hub:owner/none")
    repository.repositories["owner/empty"] = {"README.md": b"x"}
    with pytest.raises(
        WeightsError, match=r"contains none of model\.safetensors, pytorch_model\.bin"
    ):
        cnnarch.resnet18(weights="hf-hub:owner/empty")


@pytest.mark.parametrize("status", [401, 403, 500])
def test_an_error_status_from_the_hub_raises(repository: Server, status: int) -> None:
    repository.statuses["owner/net"] = status
    with pytest.raises(WeightsError, match="of hf-hub:owner/net cannot be downloaded"):
        cnnarch.resnet18(weights="hf-hub:owner/net")


@pytest.mark.parametrize("status", [403, 500])
def test_cached_files_load_despite_an_error_status(repository: Server, status: int) -> None:
    cnnarch.resnet18(weights="hf-hub:owner/net")
    repository.statuses["owner/net"] = status
    cnnarch.resnet18(weights="hf-hub:owner/net")


def test_the_requested_revision_is_downloaded(repository: Server) -> None:
    cnnarch.resnet18(weights="hf-hub:owner/net@v1.0")
    assert all("/resolve/v1.0/" in p for _, p, _ in repository.requests if "resolve" in p)


def errors(forks: Forks, code: str, server: Server, home: Path, *more: dict[str, str]) -> list[str]:
    """Run processes with additional environment variables and return the stderr of each."""
    environment = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return [
        ended.err
        for ended in forks.run(code, *({**environment, **variables} for variables in more))
    ]


LOAD = "import cnnarch; cnnarch.resnet18(weights='hf-hub:owner/net')\n"
NO_SOCKETS = """
import socket
class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise AssertionError("a socket was opened")
socket.socket = Refused
"""


def test_eight_processes_share_one_download(
    repository: Server, tmp_path: Path, forks: Forks
) -> None:
    repository.faults[blob(repository)] = [Fault(pause=0.2)]
    assert errors(forks, LOAD, repository, tmp_path, *[{}] * 8) == [""] * 8
    assert repository.gets()[blob(repository)] == 1


def test_offline_mode_and_local_files_open_no_sockets(
    repository: Server, saved: Path, tmp_path: Path, forks: Forks
) -> None:
    code, offline = NO_SOCKETS + LOAD, {"HF_HUB_OFFLINE": "1"}
    local = f"{NO_SOCKETS}import cnnarch; cnnarch.resnet18(weights={str(saved)!r})"
    assert errors(forks, LOAD, repository, tmp_path, {}) == [""]
    assert errors(forks, code, repository, tmp_path, offline) == [""]
    assert errors(forks, local, repository, tmp_path, {}) == [""]
    missing, refused = errors(forks, code, repository, tmp_path / "empty", offline, {})
    assert "WeightsError: config.json of hf-hub:owner/net cannot be downloaded" in missing
    assert "a socket was opened" not in missing
    assert "a socket was opened" in refused  # the guard works


def test_offline_mode_does_not_request_a_file_cached_as_absent(
    hub: Server, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["owner/net"] = {
        "model.safetensors": (saved / "model.safetensors").read_bytes()
    }
    cnnarch.resnet18(weights="hf-hub:owner/net")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    requests = len(hub.requests)
    cnnarch.resnet18(weights="hf-hub:owner/net")
    assert len(hub.requests) == requests


def test_files_are_cached_by_commit(repository: Server) -> None:
    cnnarch.resnet18(weights="hf-hub:owner/net")
    cnnarch.resnet18(weights=f"hf-hub:owner/net@{COMMIT}")
    assert repository.gets()[blob(repository)] == 1
