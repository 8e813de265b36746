"""Open, hash and write files.

`atomic_write` is hand-written because none of the dependencies can replace a file atomically with
the permissions given by the user's umask.
"""

import hashlib
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from cnnarch.weights.errors import WeightsError


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file for reading.

    Reading from a pipe or a device might never end, so both are rejected.

    Raises:
        WeightsError: the file does not exist, cannot be read or is not a regular file.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path} is not a regular file")
        file = path.open("rb")
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    with file:
        yield file


def sha256(path: Path) -> str:
    """Return the SHA-256 hash of a file in hexadecimal."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_matches(path: Path, expected: str) -> bool:
    """Return whether a file's sha256 starts with `expected`."""
    is_hash = re.fullmatch("[0-9a-f]{8,64}", expected) is not None
    return is_hash and sha256(path).startswith(expected)


def check_hash(path: Path, expected: str) -> None:
    """Check that a file's sha256 starts with `expected`.

    Raises:
        WeightsError: the hash differs.
    """
    if not hash_matches(path, expected):
        raise WeightsError(f"{path}: expected sha256 {expected}, got {sha256(path)}")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, and rename it to `path` if no error is raised.

    Readers see either the old file or the new one. Networks that map the old file keep using it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        part.touch()
        mode = part.stat().st_mode  # from the user's umask; safetensors always sets 600
        yield part
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
