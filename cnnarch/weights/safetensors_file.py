"""Map a safetensors file: every claim of its header is checked before a tensor is made.

The format: 8 bytes that give the length of a JSON header, the header, the data. The header says
each tensor's dtype, shape and place in the data. Source: the format's specification,
https://github.com/huggingface/safetensors.
"""

import json
import math
import mmap
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular

__all__ = ["read_header", "read_safetensors"]

_MOST_HEADER = 16 * 2**20  # bytes; a network of 1202 layers needs less than one MiB
_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    The tensors are private views of the file: pages are read when they are first used, and a
    change to one changes no other and not the file. The file must be replaced by renaming a new
    one over it; rewriting it in place changes every network that has it mapped.

    Raises:
        WeightsError: the file breaks the format in any way.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        entries, metadata, start = read_header(path, file.read(8), file.read, size)
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))[start:]
    return {name: _tensor(data, *entry) for name, entry in entries.items()}, metadata


def read_header(
    path: Path, length: bytes, read: Any, size: int
) -> tuple[dict[str, tuple[torch.dtype, list[int], int, int]], dict[str, str], int]:
    """The header's entries (dtype, shape, begin, end), its metadata, and where the data begins.

    Raises:
        WeightsError: the header is not as the format wants it, or does not match the file.
    """
    header_size = int.from_bytes(length, "little")
    if len(length) < 8 or header_size > size - 8:
        _refuse(path, f"it is cut short: {size} bytes")
    if header_size > _MOST_HEADER:
        _refuse(path, f"its header would have {header_size} bytes, at most {_MOST_HEADER} may be")
    try:
        header = json.loads(
            read(header_size), object_pairs_hook=_once_each, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is not a safetensors file: its header: {error}") from error
    if not isinstance(header, dict):
        _refuse(path, "its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _refuse(path, "its metadata are not strings")
    entries = {name: _entry(path, name, facts) for name, facts in header.items()}
    end = 0
    for name, (_, _, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != end:
            _refuse(path, f"{name!r} begins at {begin}, the tensor before it ends at {end}")
        end = stop
    if end != size - 8 - header_size:
        _refuse(path, f"it has {size - 8 - header_size} bytes of data, its header says {end}")
    return entries, metadata, 8 + header_size


def _entry(path: Path, name: str, facts: Any) -> tuple[torch.dtype, list[int], int, int]:
    keys = {"dtype", "shape", "data_offsets"}
    if not isinstance(facts, dict) or facts.keys() != keys:
        _refuse(path, f"{name!r} needs dtype, shape and data_offsets, got {facts!r:.200}")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        _refuse(path, f"{name!r} has dtype {dtype!r:.50}; {', '.join(_DTYPES)} can be read")
    if not (_counts(shape) and _counts(offsets) and len(offsets) == 2):
        _refuse(path, f"{name!r} has shape {shape!r:.200} and offsets {offsets!r:.200}")
    begin, end = offsets
    expected = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - begin != expected:
        _refuse(path, f"{name!r} has {end - begin} bytes, its shape and dtype need {expected}")
    return _DTYPES[dtype], shape, begin, end


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**63 for v in value)


def _tensor(data: memoryview, dtype: torch.dtype, shape: list[int], begin: int, end: int) -> Tensor:
    if begin == end:
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(data[begin:end], dtype=dtype)
    if flat.data_ptr() % dtype.itemsize:  # kernels may count on it
        flat = flat.clone()
    return flat.view(shape)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is in it twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(path: Path, why: str) -> NoReturn:
    raise WeightsError(f"{path} is not a safetensors file: {why}")
