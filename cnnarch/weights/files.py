"""Opening, hashing and writing files."""

import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from cnnarch.weights.errors import WeightsError

__all__ = ["atomic_write", "git_hash", "hash_matches", "open_regular", "sha256"]

_CHUNK = 2**20


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading if it is one: a pipe or a device might never end.

    Raises:
        WeightsError: there is no such file, it may not be read, or it is something else.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is not a file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    with file:
        yield file


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_hash(path: Path) -> str:
    """The name git gives a file, which the hub gives to small ones."""
    with open_regular(path) as file:
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
        return digest.hexdigest()


def hash_matches(path: Path, expected: str) -> bool:
    """Whether a file's sha256 begins with `expected`."""
    return re.fullmatch("[0-9a-f]{8,64}", expected) is not None and sha256(path).startswith(
        expected
    )


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place in one step if all went well.

    Readers see the old file or the new one, and networks that have the old one mapped keep it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # what the user's umask gives; safetensors allows its owner only
        yield part
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
