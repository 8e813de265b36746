"""Save features as they are computed so that an interrupted call can resume."""

import hashlib
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from shutil import copymode
from typing import Any, NoReturn, Self

import numpy as np
from numpy.lib.format import open_memmap
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from cnnarch.embedding.sources import ImageSource, InputBatch, Origin, join, tensor_bytes

SUFFIXES = (".npy", ".safetensors")

# With write-ahead logging, committed batches survive if the process is killed, without a
# flush to disk after each one, and a power failure loses only whole batches.
SETUP = """
PRAGMA page_size = 65536;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS batches (record TEXT, features BLOB);
"""


def check_output(output: str | PathLike[str]) -> Path:
    """Check an output path and return it.

    Raises:
        ValueError: the suffix is not supported, or the path is a folder.
        FileNotFoundError: the parent folder does not exist.
    """
    path = Path(output)
    if path.suffix not in SUFFIXES or path.is_dir():
        raise ValueError(f"output must be a {' or '.join(SUFFIXES)} file, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path.name}: folder {path.parent} does not exist")
    return path


def fingerprint(model: nn.Module, preprocessing: Any) -> bytes:
    """Return a hash of everything that determines an image's features, except the image itself."""
    described = re.sub(" at 0x[0-9a-f]+", "", f"{model!r} {preprocessing!r}")  # addresses
    digest = hashlib.sha256(described.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor_bytes(tensor))
    return digest.digest()


class FeatureFile:
    """An output file whose features are collected in an SQLite database, NAME.part.

    Each batch is one row of the database: its features with a checksum, the origin of its images,
    and a hash of the network and all images so far. When all images are done, their features are
    copied to the output file and their origin to NAME.json. A corrupted row and all later rows are
    recomputed; an unreadable database is recomputed completely.

    Args:
        output: path of the output file.
        network: fingerprint of the network and its preprocessing.
        overwrite: whether to replace an existing file and database.

    Raises:
        ValueError: another process is writing the file.
        OSError: the database cannot be created or written.
    """

    def __init__(self, output: Path, network: bytes, overwrite: bool) -> None:
        self.output, self.overwrite, self.finished = output, overwrite, False
        self.part = output.with_name(output.name + ".part")
        self.json = output.with_name(output.name + ".json")
        self.digest = hashlib.sha256(network)
        self.origins: list[Origin] = []

    def __enter__(self) -> Self:
        self._connect()
        self.finished = self.output.exists() and not self.overwrite
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        if self.finished:
            self.part.unlink(missing_ok=True)

    def _connect(self) -> None:
        with self._os_errors():
            self.database = sqlite3.connect(self.part, timeout=0, isolation_level=None)
            try:
                self.database.executescript(SETUP)
            except sqlite3.DatabaseError as error:
                self.database.close()
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                    raise ValueError(f"another process is writing {self.output}") from None
                if not self.part.is_file() or error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                    raise
                self._discard()

    def _discard(self) -> None:
        """Replace an unusable database with an empty one."""
        self.database.close()
        for suffix in ("", "-wal", "-journal"):
            self.part.with_name(self.part.name + suffix).unlink(missing_ok=True)
        self._connect()

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"{self.part} cannot be read or written: {error}") from error

    def resume(self, source: ImageSource) -> Origin:
        """Skip the images whose features are already saved, and return their origin.

        Raises:
            ValueError: the saved features belong to other images or a different network.
        """
        if self.overwrite:
            self._discard()
        digest = self.digest.hexdigest()
        try:
            for record in self._finished_record() if self.finished else self._saved_records():
                digest = record["digest"]
                self.origins.append(Origin(**{key: record[key] for key in Origin._fields}))
        except (KeyError, TypeError, ValueError):
            self._refuse()
        origin = join(self.origins)
        for identity in source.skip(origin.size):
            self.digest.update(identity)
        if self.digest.hexdigest() != digest or (self.finished and next(iter(source), None)):
            self._refuse()
        return origin

    def _finished_record(self) -> list[dict[str, Any]]:
        return [json.loads(self.json.read_text())] if self.json.exists() else [{}]

    def _saved_records(self) -> list[dict[str, Any]]:
        """Return the records before the first corrupted row; delete that row and all later ones."""
        records = []
        try:
            rows = self.database.execute("SELECT rowid, record, features FROM batches")
            for row, text, features in rows:
                record = json.loads(text)
                if zlib.crc32(features) != record["checksum"]:
                    self.database.execute("DELETE FROM batches WHERE rowid >= ?", (row,))
                    break
                records.append(record)
        except (sqlite3.Error, KeyError, TypeError, ValueError):
            self._discard()
            return []
        return records

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self.output} contains features from a different network or different images; "
            "pass overwrite=True to replace it"
        )

    def add(self, batch: InputBatch, features: np.ndarray | None) -> None:
        """Save the features of a batch."""
        for identity in batch.identities:
            self.digest.update(identity)
        values = b"" if features is None else features.tobytes()
        record = self._record(batch.origin, checksum=zlib.crc32(values))
        with self._os_errors():
            self.database.execute("INSERT INTO batches VALUES (?, ?)", (record, values))
        self.origins.append(batch.origin)

    def finish(self) -> np.ndarray | None:
        """Write the output file if it does not exist, and return its memory-mapped features."""
        origin = join(self.origins)
        rows = origin.size - len(origin.unreadable)
        if not rows:
            return None
        if not self.finished:
            with self._os_errors():
                part = self._copy_features(rows)
            self.output.unlink(missing_ok=True)  # never pair an old file with new metadata
            self.json.write_text(self._record(origin))
            _sync(self.json)
            part.replace(self.output)
            self.finished = True
        try:
            features = _map(self.output)
        except (EOFError, OSError, SafetensorError, ValueError):
            self._refuse()
        if features.ndim != 2 or len(features) != rows:
            self._refuse()
        return features

    def _record(self, origin: Origin, **more: Any) -> str:
        return json.dumps({**origin._asdict(), "digest": self.digest.hexdigest(), **more})

    def _copy_features(self, rows: int) -> Path:
        """Write the features to a file in the output's format, and return its path."""
        path = self.output.with_name(f"{self.output.name}.part.npy")
        query = "SELECT sum(length(features)) FROM batches"
        (size,) = self.database.execute(query).fetchone()
        features = open_memmap(path, "w+", np.float32, (rows, size // 4 // rows))
        start, flat = 0, features.reshape(-1)
        for (blob,) in self.database.execute("SELECT features FROM batches"):
            values = np.frombuffer(blob, np.float32)
            flat[start : start + len(values)] = values
            start += len(values)
        features.flush()
        if self.output.suffix == ".safetensors":
            path = path.with_suffix(".safetensors")
            save_file({"features": features}, path)  # safetensors < 0.8 copies the data in memory
            copymode(path.with_suffix(".npy"), path)  # safetensors creates files with mode 600
            os.unlink(path.with_suffix(".npy"))
        _sync(path)
        return path


def _sync(path: Path) -> None:
    """Flush a file to disk so that it survives a power failure."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _map(path: Path) -> np.ndarray:
    """Return the memory-mapped features of an output file."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    with safe_open(path, "pt") as file:  # "numpy" would copy instead of mapping
        features = np.asarray(file.get_tensor("features"))
    features.flags.writeable = False  # read-only, like a memory-mapped .npy file
    return features
