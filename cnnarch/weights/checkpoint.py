"""Read a checkpoint from any source that `weights=` accepts."""

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from cnnarch.facts.options import FREE, METADATA_KEY
from cnnarch.facts.sheets import namesakes, twins
from cnnarch.weights.catalog import (
    Weights,
    entry_from_torchvision,
    find_by_url,
    find_weights,
    get_weights,
)
from cnnarch.weights.config import CONFIG, Config, parse_config, read_config
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.fetching import HUB_FILES, fetch
from cnnarch.weights.files import check_hash
from cnnarch.weights.hub import fetch_from_hub, parse_hub_name
from cnnarch.weights.matching import NETWORK_NAMES
from cnnarch.weights.reading import (
    SUFFIXES,
    extract_state_dict,
    is_file_name,
    read_tensors,
)

CheckpointSource = str | os.PathLike[str] | Weights | enum.Enum | Mapping[str, Any]

_SHARD_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint under their original names, with its metadata.

    Args:
        label: name of the checkpoint to show in messages.
        tensors: the tensors, keyed by their names in the checkpoint.
        config: its metadata.
        shared: whether the caller also holds the tensors, in which case loading must copy them.
        recorded: what a state dict records about each network in it, by module path.
    """

    label: str
    tensors: dict[str, Tensor]
    config: Config = field(default_factory=Config)
    shared: bool = False
    recorded: Mapping[str, Config] = field(default_factory=dict)

    @property
    def required_options(self) -> dict[str, Any]:
        """The options on which the tensors depend."""
        return {k: v for k, v in self.config.options.items() if k not in FREE and v is not None}


def read_checkpoint(source: CheckpointSource, builder: str | None = None) -> Checkpoint:
    """Read the checkpoint specified by `source`.

    Args:
        source: a catalog tag, a path, a hub name, a URL, a catalog entry, a member
            of a torchvision weights enum, or a state dict.
        builder: name of the network's builder; required if the source is a tag.

    Raises:
        WeightsError: the checkpoint cannot be found, downloaded or read.
        TypeError: `source` has an unsupported type.
    """
    if isinstance(source, Mapping):
        label = "the state dict"
        tensors, metadata = extract_state_dict(source, label)
        return _make_checkpoint(label, tensors, metadata, Config(), builder, shared=True)
    if isinstance(source, enum.Enum) and hasattr(source.value, "url"):
        entry = entry_from_torchvision(source)
        return _read_entry(find_by_url(entry.url) or entry, builder)
    if isinstance(source, Weights):
        return _read_entry(source, builder)
    if isinstance(source, os.PathLike):
        return _read_path(Path(source), builder)
    if not isinstance(source, str):
        raise TypeError(
            "weights must be a tag, a path, a hub name, Weights or a state dict, got "
            f"{type(source).__name__}"
        )
    if source.startswith("hf-hub:"):
        return _read_hub(source, builder)
    if source.startswith(("https://", "http://")):
        return _read_entry(Weights(url=source), builder)
    if (found := find_weights(builder, source)) is not None:
        return _read_entry(found, builder)
    is_path = os.sep in source or "/" in source or source.endswith(SUFFIXES)
    if is_path or Path(source).exists():
        return _read_path(Path(source), builder)
    known = ", ".join(get_weights(builder)) if builder else ""
    raise WeightsError(
        f"{builder or 'a network without a builder'} has no weights {source!r}; the catalog has "
        f"{known or 'none'}{namesakes(builder)}. Paths and hf-hub:owner/name are also accepted"
    )


def find_pretrained(source: str | os.PathLike[str]) -> tuple[str, str]:
    """Return the builder of a saved network and the value for the builder's `weights=`.

    The config of a network of timm names the network, and so the builder of the same network here.

    Args:
        source: a folder, a file that contains a network's state dict, or a repository on the hub:
            "owner/name" (if there is no folder called "owner") or "hf-hub:owner/name[@revision]".

    Raises:
        WeightsError: the source does not exist or does not name its builder.
    """
    name = os.fspath(source)
    path = Path(name).expanduser()
    if path.is_dir():
        config = _read_folder_config(path)
        name = str(path.absolute())  # a bare "net" would be read as a tag
    elif path.exists():
        config = _read_file_config(path)
        name = str(path.absolute())
    elif _may_be_on_hub(name):
        hub = parse_hub_name(name)
        found = fetch_from_hub(hub, CONFIG)
        name, config = str(hub), read_config(found) if found else Config()
    else:
        raise WeightsError(f"{name!r} is not a folder, a file or hf-hub:owner/name")
    builder = config.builder or _find_builder(config)
    if builder is None:
        raise WeightsError(
            f"{name} does not name the cnnarch builder that created it; pass it to the right "
            f"builder, for example cnnarch.resnet50(weights={name!r})"
        )
    return builder, name


def _find_builder(config: Config) -> str | None:
    """Return the builder of a network that only another library's name describes."""
    same = [t.builder for t in twins(library=config.layout) if t.name == config.architecture]
    return same[0] if same else None


def _may_be_on_hub(name: str) -> bool:
    """Return whether a name that is not an existing path looks like a hub name."""
    is_path = name.startswith((".", "/", "~")) or name.endswith(SUFFIXES)
    return "/" in name and not is_path and not Path(name).parent.is_dir()


def _read_file_config(path: Path) -> Config:
    """Return what a file records about its network."""
    tensors, metadata = read_tensors(path, mapped=True)
    return _make_checkpoint(str(path), tensors, metadata, Config(), None).config


def _read_entry(entry: Weights, builder: str | None) -> Checkpoint:
    if builder and entry.network and entry.network != builder:
        raise WeightsError(f"{entry.tag} is for {entry.network}, not for {builder}")
    tensors, metadata = read_tensors(fetch(entry), mapped=True)
    return _make_checkpoint(entry.url, tensors, metadata, entry.config, builder)


def _read_hub(source: str, builder: str | None) -> Checkpoint:
    name = parse_hub_name(source)
    config = fetch_from_hub(name, CONFIG)
    weights = fetch_from_hub(name, *HUB_FILES)
    if weights is None:
        raise WeightsError(f"{name} contains none of {', '.join(HUB_FILES)}")
    known = read_config(config) if config else Config()
    return _read_file(str(name), weights, known, builder, mapped=True)


def _read_path(path: Path, builder: str | None) -> Checkpoint:
    path = path.expanduser()
    if not path.is_dir():
        return _read_file(str(path), path, Config(), builder)
    config = _read_folder_config(path)
    weights = path / config.weights
    if not is_file_name(config.weights):
        raise WeightsError(f"{path / CONFIG}: {config.weights!r} is not a file in the same folder")
    if not weights.exists():
        indexes = (path / name for name in _SHARD_INDEXES)
        weights = next((index for index in indexes if index.exists()), weights)
    return _read_file(str(path), weights, config, builder)


def _read_folder_config(folder: Path) -> Config:
    path = folder / CONFIG
    return read_config(path) if path.exists() else Config()


def _read_file(
    label: str, path: Path, config: Config, builder: str | None, mapped: bool = False
) -> Checkpoint:
    """Read a weights file; its metadata overrides `config`."""
    if config.sha256:
        check_hash(path, config.sha256)
    tensors, metadata = read_tensors(path, mapped)
    return _make_checkpoint(label, tensors, metadata, config, builder)


def _make_checkpoint(
    label: str,
    tensors: dict[str, Tensor],
    metadata: Mapping[str, str],
    config: Config,
    builder: str | None,
    shared: bool = False,
) -> Checkpoint:
    """Add what the weights file itself records to its config."""
    recorded = {
        key.removeprefix(METADATA_KEY).removeprefix(":"): parse_config(text, label)
        for key, text in metadata.items()
        if key.partition(":")[0] == METADATA_KEY
    }
    chosen = _choose_recorded(recorded, builder)
    return Checkpoint(label, tensors, _merge(config, chosen), shared, recorded)


def _choose_recorded(recorded: Mapping[str, Config], builder: str | None) -> Config:
    """Return the description of the network that is loaded, as `find_match` chooses it."""
    of_builder = {path: each for path, each in recorded.items() if each.builder == builder}
    candidates = of_builder or recorded
    usual = [c for path, c in candidates.items() if path.rpartition(".")[2] in NETWORK_NAMES]
    for found in (list(candidates.values()), usual):
        if found and all(each == found[0] for each in found):
            return found[0]
    return Config()


def _merge(config: Config, recorded: Config) -> Config:
    """Return a config, overridden by what the weights file records."""
    if recorded.builder is None or recorded.version is not None:  # nothing, or all of a config
        return recorded if recorded.builder else config
    return replace(
        recorded,
        options={**config.options, **recorded.options},
        preprocessing=recorded.preprocessing or config.preprocessing,
        categories=recorded.categories or config.categories,
        layout="cnnarch",
    )
