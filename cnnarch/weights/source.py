"""What `weights=` takes, resolved to tensors and what is known of them."""

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.config import CONFIG, METADATA_KEY, Config, parse_config, read_config
from cnnarch.weights.entry import Weights, find_by_url, find_weights, get_weights
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.fetching import ON_HUB, fetch
from cnnarch.weights.files import hash_matches, sha256
from cnnarch.weights.foreign import from_torchvision
from cnnarch.weights.hub import fetch_from_hub, parse_hub_name
from cnnarch.weights.options import FREE
from cnnarch.weights.reading import SUFFIXES, is_plain, read_tensors, tensors_in
from cnnarch.weights.safetensors_file import read_safetensors

__all__ = [
    "Checkpoint",
    "Source",
    "find_pretrained",
    "read_checkpoint",
    "read_folder_config",
]

Source = str | os.PathLike[str] | Weights | enum.Enum | Mapping[str, Any]

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under the names they came with, and what is known of them.

    Args:
        label: where they come from, for messages.
        tensors: by their names there.
        ours: whether nothing else holds them, so that a network may take them over.
        options: of the builder, as the catalog or the config says.
        layout: whose names they are, "auto" if that is to be found out.
        architecture: what the library of the layout calls the network.
        preprocessing: from an image to the network's input.
        categories: names of the classes.
    """

    label: str
    tensors: dict[str, Tensor]
    ours: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "auto"
    architecture: str | None = None
    preprocessing: Preprocessing | None = None
    categories: tuple[str, ...] | None = None

    @property
    def needs(self) -> dict[str, Any]:
        """The options that the tensors depend on."""
        return {k: v for k, v in self.options.items() if k not in FREE and v is not None}


def read_checkpoint(source: Source, builder: str | None = None) -> Checkpoint:
    """Resolve what `weights=` takes.

    Args:
        source: a tag of the catalog, a path, a hub name, an address, a catalog entry, a member
            of a torchvision weights enum, or a state dict.
        builder: the network that it is for, which a tag needs.

    Raises:
        WeightsError: it cannot be found, fetched or read.
        TypeError: it is none of these.
    """
    if isinstance(source, Mapping):
        return Checkpoint("the state dict", tensors_in(source, "the state dict"), ours=False)
    if isinstance(source, enum.Enum) and hasattr(source.value, "url"):
        return _read_entry(_from_torchvision(source), builder)
    if isinstance(source, Weights):
        return _read_entry(source, builder)
    if isinstance(source, os.PathLike):
        return _read_path(Path(source))
    if not isinstance(source, str):
        raise TypeError(
            "weights must be a tag, a path, a hub name, Weights or a state dict, got "
            f"{type(source).__name__}"
        )
    if source.startswith("hf-hub:"):
        return _read_hub(source)
    if source.startswith(("https://", "http://")):
        return _read_entry(Weights(url=source), builder)
    if (entry := find_weights(builder, source)) is not None:
        return _read_entry(entry, builder)
    if os.sep in source or "/" in source or source.endswith(SUFFIXES):
        return _read_path(Path(source))
    known = ", ".join(get_weights(builder)) if builder else ""
    raise WeightsError(
        f"{builder or 'a network without a builder'} has no weights {source!r}; it has "
        f"{known or 'none in the catalog'}, and takes paths and hf-hub:owner/name"
    )


def find_pretrained(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Which builder made a saved network, and what its `weights=` is.

    Args:
        source: the folder or .safetensors file, or a repository on the hub, "owner/name" (where no
            folder is called like the owner) or "hf-hub:owner/name[@revision]".

    Raises:
        WeightsError: it is not there, or says no builder.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.is_dir():
        name, config = str(path.absolute()), read_folder_config(path)  # a bare name is no path
    elif path.exists():
        name, config = str(path.absolute()), _config_inside(read_safetensors(path)[1], name)
    elif _may_be_of_hub(name):
        hub = parse_hub_name(name)
        found = fetch_from_hub(hub, CONFIG)
        name, config = str(hub), read_config(found) if found else Config()
    else:
        raise WeightsError(f"there is no folder or file {name!r}, nor is it hf-hub:owner/name")
    if config.builder is None:
        raise WeightsError(
            f"{name} does not say which cnnarch builder made it; pass it to the builder you know "
            f"it to fit, as in cnnarch.resnet50(weights={name!r})"
        )
    return config.builder, name


def _may_be_of_hub(name: str) -> bool:
    """Whether nothing says that a name which is not there was to be a path."""
    is_path = name.startswith((".", "/", "~")) or name.endswith(SUFFIXES)
    return "/" in name and not is_path and not Path(name).parent.is_dir()


def _config_inside(metadata: Mapping[str, str], label: str) -> Config:
    """The config that our .safetensors files carry, an empty one for others'."""
    text = metadata.get(METADATA_KEY)
    return Config() if text is None else parse_config(text, label)


def _from_torchvision(member: Any) -> Weights:
    """The catalog's entry of the same address, or a new one."""
    entry = from_torchvision(member)
    return find_by_url(entry.url) or entry


def _read_entry(entry: Weights, builder: str | None) -> Checkpoint:
    if builder and entry.network and entry.network != builder:
        raise WeightsError(f"{entry.tag} is for {entry.network}, not for {builder}")
    path = fetch(entry)
    facts = {"num_classes": entry.num_classes, "in_channels": entry.in_channels}
    return Checkpoint(
        label=entry.url,
        tensors=read_tensors(path)[0],
        options={**{k: v for k, v in facts.items() if v is not None}, **entry.options},
        layout=entry.layout,
        architecture=entry.architecture,
        preprocessing=entry.preprocessing,
        categories=entry.categories,
    )


def _read_hub(source: str) -> Checkpoint:
    name = parse_hub_name(source)
    config = fetch_from_hub(name, CONFIG)
    weights = fetch_from_hub(name, *ON_HUB)
    if weights is None:
        raise WeightsError(f"{name} has none of {', '.join(ON_HUB)}")
    return _with_config(str(name), weights, read_config(config) if config else Config())


def _read_path(path: Path) -> Checkpoint:
    path = path.expanduser()
    if path.is_dir():
        config = read_folder_config(path)
        weights = path / config.weights
        if not is_plain(config.weights):
            raise WeightsError(f"{path / CONFIG} names {config.weights!r} as its file of tensors")
        if not weights.exists() and (path / INDEX).exists():
            weights = path / INDEX
        return _with_config(str(path), weights, config)
    return _with_config(str(path), path, Config())


def read_folder_config(folder: Path) -> Config:
    """The config of a folder, an empty one if it has none."""
    path = folder / CONFIG
    return read_config(path) if path.exists() else Config()


def _with_config(label: str, path: Path, config: Config) -> Checkpoint:
    """The file's own metadata win over the folder's config: they cannot be mixed up."""
    if config.sha256 and not hash_matches(path, config.sha256):
        raise WeightsError(f"{path}: expected sha256 {config.sha256}, got {sha256(path)}")
    tensors, metadata = read_tensors(path)
    if METADATA_KEY in metadata:
        config = _config_inside(metadata, label)
    return Checkpoint(
        label=label,
        tensors=tensors,
        options=config.options,
        layout=config.layout,
        architecture=config.architecture,
        preprocessing=config.preprocessing,
        categories=config.categories,
    )
