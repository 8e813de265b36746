"""Read a state dict from a file."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular
from cnnarch.weights.torch_file import read_torch

_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *_PICKLES)
_DTYPES = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the state dict; averaged weights take precedence."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and metadata of a file, or of the shards that an index lists.

    Raises:
        WeightsError: the file cannot be read as weights.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path), {}
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in _PICKLES:
        return extract_state_dict(read_torch(path), str(path)), {}
    raise WeightsError(f"{path}: weights files end in {', '.join(SUFFIXES)}")


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file.

    The tensors are private memory maps of the file: pages are read on first use, and writing to a
    tensor changes neither the file nor any other tensor. Replace the file by renaming a new one
    over it; rewriting it in place changes every network that maps it.

    Raises:
        WeightsError: the file is not a valid safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    with open_regular(path):  # raises for a pipe or a device, on which safe_open would block
        try:
            with safe_open(path, "pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                metadata = file.metadata() or {}
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise WeightsError(f"{path} is not a safetensors file: {error!s:.400}") from error
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise WeightsError(f"{path}: {name} has the unsupported dtype {tensor.dtype}")
        if tensor.data_ptr() % tensor.element_size():  # kernels may assume aligned data
            tensors[name] = tensor.clone()
    return tensors, metadata


def _read_shards(index: Path) -> dict[str, Tensor]:
    """Return the tensors in the files listed in an index; all must be in the index's folder."""
    with open_regular(index) as file:
        text = file.read(2**24)
    try:
        shards = dict(json.loads(text)["weight_map"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{index} is not an index of shards: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(map(str, shards.values()))):
        if not is_file_name(name) or not name.endswith(".safetensors"):
            raise WeightsError(f"{index}: {name!r} is not a .safetensors file in the same folder")
        tensors |= read_safetensors(index.parent / name)[0]
    if tensors.keys() != shards.keys():
        raise WeightsError(f"{index} does not list exactly the tensors in its shards")
    return tensors


def is_file_name(name: str) -> bool:
    """Return whether a name from an untrusted file is a bare file name on every system."""
    return re.fullmatch(r"[\w-][\w. -]*", name) is not None


def extract_state_dict(loaded: Any, label: str) -> dict[str, Tensor]:
    """Extract the state dict from a file's contents. All its tensors must be dense.

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
        raise WeightsError(f"{label} contains no named tensors")
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(f"{label}: {key!r} is not a dense tensor")
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _has_mapping(loaded: Any, key: str) -> bool:
    return isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping)
