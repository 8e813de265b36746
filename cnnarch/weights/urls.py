"""Files at plain addresses: one download for all processes, checked, in place in one step."""

import hashlib
import os
import re
import urllib.error
import urllib.request
import warnings
from http.client import HTTPException
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write, hash_matches

__all__ = ["cache_folder", "fetch_url", "hash_in_name"]

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 2**18


def cache_folder() -> Path:
    """Where downloads are kept: $CNNARCH_CACHE, else cnnarch in $XDG_CACHE_HOME or ~/.cache."""
    if folder := os.environ.get("CNNARCH_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cnnarch"


def hash_in_name(url: str) -> str | None:
    """The beginning of the sha256 that torch.hub's file names carry: `resnet50-0676ba61.pth`."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", urlsplit(url).path)
    return found[1] if found else None


def fetch_url(url: str, expected: str | None = None) -> Path:
    """A file at an address, from the cache if it is there.

    The cache goes by the address, so that files of one name from two places never meet. A file
    that torch.hub has fetched already is used if its hash is known and right.

    Args:
        url: http or https.
        expected: the file's sha256, whole or its beginning; None takes it from the file's name
            as torch.hub does, and warns if there is none.

    Raises:
        WeightsError: the address cannot be reached, or its content is twice not what was
            expected.
    """
    from filelock import FileLock

    expected = expected or hash_in_name(url)
    if expected is None:
        warnings.warn(f"nothing is known of {url} to check it by", stacklevel=2)
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path.rpartition("/")[2])).lstrip(".")
    name = name[-100:] or "weights"
    folder = cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    shared = Path(torch.hub.get_dir()) / "checkpoints" / name
    for path in (folder / name, shared):
        if path.is_file() and _is_good(path, expected, shared):
            return path
    if _offline():
        raise WeightsError(f"{url} is not in {folder}, and HF_HUB_OFFLINE is set")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        path = folder / name
        if not (path.is_file() and _is_good(path, expected, shared)):
            _download_checked(url, path, expected)
    return path


def _is_good(path: Path, expected: str | None, shared: Path) -> bool:
    if expected is None:
        return path != shared
    return hash_matches(path, expected)


def _download_checked(url: str, path: Path, expected: str | None) -> None:
    """Fetch to a part file, compare, rename; one more try if anything but a refusal came."""
    fault: Exception | None = None
    for _ in range(2):
        try:
            with atomic_write(path) as part:
                got = _download(url, part)
                if expected is not None and not got.startswith(expected):
                    raise OSError(f"expected sha256 {expected}, got {got}")
            return
        except urllib.error.HTTPError as error:
            error.close()
            fault = error
            if error.code < 500:
                break
        except (OSError, HTTPException, ValueError) as error:
            fault = error
    raise WeightsError(
        f"{url} cannot be downloaded ({type(fault).__name__}: {fault}). It was to be kept as "
        f"{path}; a file fetched by other means can be passed as weights by its path"
    ) from fault


def _download(url: str, part: Path) -> str:
    """Write what an address gives to a file; its sha256."""
    # The hub client's: one switch for the progress bars of all downloads.
    tqdm = import_module("huggingface_hub.utils").tqdm

    opener = urllib.request.build_opener(_SafeRedirects)
    request = urllib.request.Request(url, headers={"User-Agent": "cnnarch"})
    digest, received = hashlib.sha256(), 0
    with opener.open(request, timeout=_TIMEOUT) as response, part.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        with tqdm(total=total, unit="B", unit_scale=True) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
    if total is not None and received != total:
        raise OSError(f"the connection was cut after {received} of {total} bytes")
    return digest.hexdigest()


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow no redirect that gives up encryption or leaves http."""

    def redirect_request(self, req: Any, *rest: Any) -> Any:
        *_, target = rest
        if urlsplit(target).scheme not in {"https", urlsplit(req.full_url).scheme}:
            raise ValueError(f"{req.full_url} redirects to {target}")
        return super().redirect_request(req, *rest)


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE
