"""Download files from plain HTTP URLs into a cache.

This module replaces torch.hub, which uses no lock or timeout, checks neither the size of downloads
nor files that are already cached, and follows redirects from https to http.
"""

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

_TIMEOUT = 30.0  # seconds without receiving data
_CHUNK = 2**18


def hash_in_name(url: str) -> str | None:
    """Return the sha256 digits in a torch.hub file name, for example `resnet50-0676ba61.pth`."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", urlsplit(url).path)
    return found[1] if found else None


def fetch_url(url: str, expected: str | None = None) -> Path:
    """Download the file at a URL unless it is cached, and return its path.

    The cache is $CNNARCH_CACHE if set, otherwise the `cnnarch` folder in $XDG_CACHE_HOME or
    ~/.cache. Each URL has its own folder. A file in torch.hub's cache is used if its hash is known
    and matches.

    Args:
        url: http or https URL.
        expected: sha256 of the file, in full or its leading hex digits. None uses the digits in the
            file name, as torch.hub does, and warns if there are none.

    Raises:
        WeightsError: the URL cannot be reached, or two downloads have the wrong content.
    """
    from filelock import FileLock
    from huggingface_hub import constants

    expected = expected or hash_in_name(url)
    if expected is None:
        warnings.warn(f"{url} cannot be checked: its sha256 is unknown", stacklevel=2)
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path.rpartition("/")[2])).lstrip(".")
    name = name[-100:] or "weights"
    folder = _cache_folder() / hashlib.sha256(url.encode()).hexdigest()[:16]
    path = folder / name
    from_torch_hub = Path(torch.hub.get_dir()) / "checkpoints" / name
    if _is_valid(path, expected):
        return path
    if expected is not None and _is_valid(from_torch_hub, expected):
        return from_torch_hub
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{url} is not in {folder}, and HF_HUB_OFFLINE is set")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if not _is_valid(path, expected):  # another process may have finished the download
            _download_checked(url, path, expected)
    return path


def _cache_folder() -> Path:
    if folder := os.environ.get("CNNARCH_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "cnnarch"


def _is_valid(path: Path, expected: str | None) -> bool:
    return path.is_file() and (expected is None or hash_matches(path, expected))


def _download_checked(url: str, path: Path, expected: str | None) -> None:
    """Download to a temporary file, verify and rename it. Retry once, except on HTTP 4xx errors."""
    failure: Exception | None = None
    for _ in range(2):
        try:
            with atomic_write(path) as part:
                got = _download(url, part)
                if expected is not None and not got.startswith(expected):
                    raise OSError(f"expected sha256 {expected}, got {got}")
            return
        except urllib.error.HTTPError as error:
            error.close()
            failure = error
            if error.code < 500:
                break
        except (OSError, HTTPException, ValueError) as error:
            failure = error
    raise WeightsError(
        f"{url} cannot be downloaded to {path} ({type(failure).__name__}: {failure}). If you have "
        "the file, pass its path as weights"
    ) from failure


def _download(url: str, part: Path) -> str:
    """Download the content of a URL to a file and return its sha256."""
    # huggingface_hub's tqdm lets a single setting disable all progress bars.
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
        raise OSError(f"the connection was closed after {received} of {total} bytes")
    return digest.hexdigest()


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Reject redirects from https to http and to other schemes."""

    def redirect_request(self, req: Any, *rest: Any) -> Any:
        *_, target = rest
        if urlsplit(target).scheme not in {"https", urlsplit(req.full_url).scheme}:
            raise ValueError(f"{req.full_url} redirects to {target}")
        return super().redirect_request(req, *rest)
