"""Save features as they are computed so that an interrupted call can resume."""

import hashlib
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from shutil import copymode
from typing import Any, NoReturn, Self

import numpy as np
from numpy.lib.format import open_memmap
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from cnnarch.contents import tensor_bytes
from cnnarch.embedding.batches import InputBatch, MissingImagesError, Origin, join
from cnnarch.embedding.sources import ImageSource
from cnnarch.folders import printable

SUFFIXES = (".npy", ".safetensors")

# With write-ahead logging, committed batches survive if the process is killed, without a
# flush to disk after each one, and a power failure loses only whole batches.
SETUP = """
PRAGMA page_size = 65536;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS batches (record TEXT, features BLOB);
CREATE TABLE IF NOT EXISTS finished (record TEXT);
"""

BLOCK = 4096  # rows copied together


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
    copied to the output file, in the order of the call, and their origin to NAME.json. If the
    output file exists, its features are kept and the database receives those of new images.
    A corrupted row and all later rows are recomputed; an unreadable database is recomputed
    completely.

    Args:
        output: path of the output file.
        network: fingerprint of the network and its preprocessing.
        overwrite: whether to replace an existing file and database.

    Raises:
        ValueError: another process is writing the file.
        OSError: the database cannot be created or written.
    """

    def __init__(self, output: Path, network: bytes, overwrite: bool) -> None:
        self.output, self.overwrite, self.network = output, overwrite, network
        self.part = output.with_name(output.name + ".part")
        self.json = output.with_name(output.name + ".json")
        self.copy = output.with_name(f"{output.name}.part{output.suffix}")
        self.digest = hashlib.sha256(network)
        self.old: np.ndarray | None = None
        """The features in the output file, which are the first rows."""
        self.origins: list[Origin] = []
        self.identities: list[bytes] = []
        """The identity of each image that has a row."""
        self.done = False

    def __enter__(self) -> Self:
        self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(sqlite3.Error):
            is_empty = not self.database.execute("SELECT 1 FROM batches LIMIT 1").fetchone()
            self.done = self.done or (is_empty and self.output.exists())
        self.database.close()
        if self.done:
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

    def resume(self, source: ImageSource) -> int:
        """Skip the images whose features are already saved, and return their number.

        Raises:
            ValueError: the saved features belong to other images or a different network.
        """
        if self.overwrite:
            self._discard()
            return 0
        self._finish_replacing()
        digest = self.digest.hexdigest()
        records = self._saved_records()
        try:
            # An interrupted call with overwrite=True did not use the rows in the output file.
            if self.output.exists() and all(record["old"] for record in records[:1]):
                self.old = _map(self.output)
                digest = self._open(json.loads(self.json.read_text()))
                if self.old.ndim != 2 or len(self.old) != self.origins[0].size:
                    self._refuse()
            for record in records:
                digest = self._open(record)
        except (EOFError, KeyError, OSError, TypeError, ValueError, SafetensorError):
            self._refuse()
        saved = join(self.origins)
        self._identify(source.skip(saved))
        if self.digest.hexdigest() != digest:
            self._refuse()
        try:
            source.match(saved)
        except MissingImagesError as error:
            raise ValueError(
                f"{self.output} contains features of {error.count} images that are not among "
                f"these, such as {printable(error.name)}; pass them too, or overwrite=True to "
                "replace the file"
            ) from None
        return len(self.identities)

    def _open(self, record: dict[str, Any]) -> str:
        """Add the origin of saved rows, and return the hash of all images so far.

        Files that could not be read are read again, because they may have been repaired.
        """
        origin = Origin(**{key: record[key] for key in Origin._fields})
        rows = origin.size - len(origin.unreadable)
        self.origins.append(origin._replace(size=rows, unreadable=()))
        return str(record["digest"])

    def _identify(self, identities: Iterable[bytes]) -> None:
        for identity in identities:
            self.digest.update(identity)
            self.identities.append(identity)

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
        ) from None

    def add(self, batch: InputBatch, features: np.ndarray | None) -> None:
        """Save the features of a batch; None if none of its images can be read."""
        self.origins.append(batch.origin)
        self._identify(batch.identities)
        if features is None:
            return
        values = features.tobytes()
        record = self._record(
            batch.origin, checksum=zlib.crc32(values), old=0 if self.old is None else len(self.old)
        )
        with self._os_errors():
            self.database.execute("INSERT INTO batches VALUES (?, ?)", (record, values))

    def finish(self, source: ImageSource) -> tuple[np.ndarray | None, Origin]:
        """Write the output file, and return its memory-mapped features and their origin.

        Args:
            source: determines the order of the rows, and the current names of the images.
        """
        origin = join(self.origins)
        if not self.identities:
            return None, origin
        order, origin = source.arrange(origin)
        rows = len(self.identities)
        if order == []:  # no image can be read any longer
            return None, origin
        changed = self.old is None or len(self.old) < rows or order is not None
        if order is not None:
            identities, self.identities = self.identities, []
            self.digest = hashlib.sha256(self.network)
            self._identify(identities[row] for row in order)
        with self._os_errors():
            if changed:
                self._copy_features(range(rows) if order is None else order, rows)
            record = self._record(origin)
            if changed or record != self.json.read_text():
                self.database.execute("PRAGMA synchronous = FULL")
                self.database.execute("INSERT INTO finished VALUES (?)", (record,))
        self.old = None  # Windows cannot replace a mapped file
        self._finish_replacing()
        self.done = True
        return _map(self.output), origin

    def _finish_replacing(self) -> None:
        """Replace the output and NAME.json if all features are done; also after a kill."""
        with self._os_errors():
            found = self.database.execute("SELECT record FROM finished").fetchone()
        if found is None:
            return
        if self.copy.exists():
            self.output.unlink(missing_ok=True)  # never pair an old file with new metadata
        self.json.write_text(found[0])
        _sync(self.json)
        if self.copy.exists():
            self.copy.replace(self.output)
        self._discard()

    def _record(self, origin: Origin, **more: Any) -> str:
        return json.dumps({**origin._asdict(), "digest": self.digest.hexdigest(), **more})

    def _copy_features(self, order: Sequence[int], rows: int) -> None:
        """Write some of the rows, in this order, to a file in the output's format."""
        path = self.copy.with_suffix(".npy")
        places = np.full(rows, -1)
        places[order] = np.arange(len(order))
        features: np.ndarray | None = None
        start = 0
        for block in self._blocks():
            if features is None:
                features = open_memmap(path, "w+", np.float32, (len(order), block.shape[1]))
            target = places[start : start + len(block)]
            features[target[target >= 0]] = block[target >= 0]
            start += len(block)
        assert isinstance(features, np.memmap)
        features.flush()
        if self.output.suffix == ".safetensors":
            save_file({"features": features}, self.copy)  # safetensors < 0.8 copies in memory
            copymode(path, self.copy)  # safetensors creates files with mode 600
            os.unlink(path)
        _sync(self.copy)

    def _blocks(self) -> Iterator[np.ndarray]:
        """Yield the features of all rows: first those in the output file, then the new ones."""
        if self.old is not None:
            for start in range(0, len(self.old), BLOCK):
                yield self.old[start : start + BLOCK]
        for text, blob in self.database.execute("SELECT record, features FROM batches"):
            origin = json.loads(text)
            count = origin["size"] - len(origin["unreadable"])
            yield np.frombuffer(blob, np.float32).reshape(count, -1)


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
