"""Read a state dict from a file."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.blocks._wrappers import gathered
from cnnarch.facts.options import METADATA_KEY
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular
from cnnarch.weights.recorded import recorded_in
from cnnarch.weights.torch_file import read_torch

_PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".th", ".pth.tar")
SUFFIXES = (".safetensors", *_PICKLES)
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_WRAPPERS = (
    "model_ema",
    "state_dict_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "weights",
)
"""Keys under which training scripts save the state dict; averaged weights take precedence."""


def read_tensors(path: Path, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file, or of the shards that an index lists.

    Args:
        path: the file.
        mapped: whether the tensors may be private memory maps of the file, whose pages are read on
            first use. This is for files in caches only: rewriting a mapped file in place, as
            `torch.save` does, changes the tensors or crashes the process.

    Raises:
        WeightsError: the file cannot be read as weights.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path, mapped), {}
    if path.suffix == ".safetensors":
        return read_safetensors(path, mapped)
    if path.name.endswith(_PICKLES):
        return extract_state_dict(read_torch(path, mapped), str(path))
    raise WeightsError(f"{path}: weights files end in {', '.join(SUFFIXES)}")


def read_safetensors(path: Path, mapped: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file, as `read_tensors` does.

    Raises:
        WeightsError: the file is not a valid safetensors file.
    """
    from safetensors import SafetensorError

    with open_regular(path):  # raises for a pipe or a device, on which safe_open would block
        try:
            tensors, metadata = _read_all(path, mapped)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error!s:.400}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise WeightsError(f"{path}: {name} has the unsupported dtype {tensor.dtype}")
        if tensor.data_ptr() % tensor.element_size():  # kernels may assume aligned data
            tensors[name] = tensor.clone()
    return tensors, metadata


def _read_all(path: Path, mapped: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Map all tensors, or read them one after another in the order of the file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file, path.open("rb") as raw:
        tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
        if not mapped:
            raw.seek(8 + int.from_bytes(raw.read(8), "little"))  # the header, after its length
            for name, like in tensors.items():  # maps, whose pages are never read
                tensors[name] = tensor = torch.empty_like(like)
                values = tensor.view(-1).view(torch.uint8).numpy().data
                if raw.readinto(values) < tensor.nbytes:
                    raise OSError("it was truncated")
        return tensors, file.metadata() or {}


def _read_shards(index: Path, mapped: bool) -> dict[str, Tensor]:
    """Return the tensors in the files listed in an index; all must be in its folder."""
    with open_regular(index) as file:
        text = file.read(2**24)
    try:
        shards = dict(json.loads(text)["weight_map"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{index} is not an index of shards: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(map(str, shards.values()))):
        if not is_file_name(name) or not name.endswith(SUFFIXES):
            raise WeightsError(f"{index}: {name!r} is not a weights file in the same folder")
        tensors |= read_tensors(index.parent / name, mapped)[0]
    if tensors.keys() != shards.keys():
        raise WeightsError(f"{index} does not list exactly the tensors in its shards")
    return tensors


def is_file_name(name: str) -> bool:
    """Return whether a name from an untrusted file is a bare file name on every system."""
    return re.fullmatch(r"[\w-][\w. -]*", name) is not None


def extract_state_dict(loaded: Any, label: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of the state dict in a file. Its tensors must be dense.

    The metadata has an entry for each network in the state dict. Its key ends in the module path.

    Args:
        loaded: the return value of torch.load, or a state dict.
        label: name to show in error messages.

    Raises:
        WeightsError: there is no state dict.
    """
    for _ in range(3):
        inner = next((loaded[key] for key in _WRAPPERS if _has_mapping(loaded, key)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{label} contains {type(loaded).__name__}, not a state dict")
    tensors = {key: t for key, t in loaded.items() if isinstance(t, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        keys = f"; its keys are {', '.join(map(repr, list(loaded)[:5]))}" if loaded else ""
        raise WeightsError(f"{label} contains no named tensors{keys}")
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(f"{label}: {key!r} is not a dense tensor")
    try:
        metadata = {
            f"{METADATA_KEY}:{path}" if path else METADATA_KEY: json.dumps(description)
            for path, description in recorded_in(loaded).items()
        }
    except (TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{label} describes its network incorrectly: {error}") from error
    return {key: tensor.detach() for key, tensor in gathered(tensors).items()}, metadata


def _has_mapping(loaded: Any, key: str) -> bool:
    return isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)
