"""Identify images by their contents: hashes of files and of pixels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import read_ahead

WHOLE, ENDS = "sha256", "sha256-of-ends"
"""The kinds of hashes: of a whole file, or of its size and its first and last 64 KiB."""
END_BYTES = 65_536
CONTENT_LIMIT = 2**31  # bytes; in larger sets of files, not every file is read completely


def hash_files(paths: Sequence[Path], kind: str) -> list[tuple[int, str]]:
    """Return the size and the hash of each file."""

    def hashed(path: Path) -> tuple[int, str]:
        with path.open("rb") as file:
            return hash_file(file, kind)

    return list(read_ahead(paths, hashed, ahead=64))


def hash_file(file: BinaryIO, kind: str) -> tuple[int, str]:
    """Return the size and the hash of an open file."""
    size = file.seek(0, 2)
    file.seek(0)
    if kind == WHOLE:
        digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    else:
        digest = hashlib.sha256(file.read(END_BYTES))
        file.seek(max(file.tell(), size - END_BYTES))
        digest.update(file.read() + size.to_bytes(8, "big"))
    return size, f"{kind}:{digest.hexdigest()}"


def hash_pixels(image: Tensor | np.ndarray) -> bytes:
    """Return a hash of an array's shape, type and values."""
    tensor = torch.as_tensor(image)
    digest = hashlib.sha256(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor_bytes(tensor))
    return digest.digest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor of any dtype."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
