"""From a file, or what was loaded from one, to a state dict."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular
from cnnarch.weights.safetensors_file import read_safetensors
from cnnarch.weights.torch_file import read_torch

__all__ = ["SUFFIXES", "is_plain", "read_tensors", "tensors_in"]

_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *_PICKLES)
_WRAPPERS = ("model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the state dict; the averaged one is the published."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, or of the shards that an index lists.

    Raises:
        WeightsError: it cannot be read as weights.
    """
    if path.name.endswith(".index.json"):
        return _read_shards(path), {}
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if path.suffix in _PICKLES:
        return tensors_in(read_torch(path), str(path)), {}
    raise WeightsError(f"{path}: weights end in {', '.join(SUFFIXES)}")


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of several files that an index lists; all must lie beside it."""
    with open_regular(index) as file:
        text = file.read(2**24)
    try:
        places = dict(json.loads(text)["weight_map"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(f"{index} is not an index of shards: {error}") from error
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(map(str, places.values()))):
        if not is_plain(name) or not name.endswith(".safetensors"):
            raise WeightsError(f"{index} names {name!r}, which is not a file beside it")
        tensors |= read_safetensors(index.parent / name)[0]
    if tensors.keys() != places.keys():
        raise WeightsError(f"{index} and its shards do not hold the same tensors")
    return tensors


def is_plain(name: str) -> bool:
    """Whether a name from a file stays in its folder, on any system."""
    return re.fullmatch(r"[\w-][\w. -]*", name) is not None


def tensors_in(loaded: Any, label: str) -> dict[str, Tensor]:
    """The state dict in what a file holds, out of its wrappers; only dense tensors pass.

    Args:
        loaded: what torch.load gave, or a state dict.
        label: names it in errors.

    Raises:
        WeightsError: there is no state dict in it.
    """
    for _ in range(3):
        inner = next((loaded[w] for w in _WRAPPERS if _holds(loaded, w)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{label} holds {type(loaded).__name__}, not a state dict")
    tensors = {key: t for key, t in loaded.items() if isinstance(t, Tensor)}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        raise WeightsError(f"{label} holds no tensors by name")
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise WeightsError(f"{label}: {key!r} is not a dense tensor")
    return {key: tensor.detach() for key, tensor in tensors.items()}


def _holds(loaded: Any, wrapper: str) -> bool:
    return isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping)
