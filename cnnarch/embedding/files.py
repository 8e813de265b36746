"""Rows of features on their way into a file, where whatever ends the process leaves them."""

import hashlib
import json
import os
import re
import struct
import zlib
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, Self

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from cnnarch.embedding.rows import Embeddings, Rows
from cnnarch.embedding.sources import Batch, Source
from cnnarch.images import Unreadable

__all__ = ["FileRows", "check_output", "fingerprint"]

HEADER = 4096  # bytes kept free before the rows; both formats let spaces fill the rest
ROW = np.dtype("<f4")


def check_output(output: str | PathLike[str]) -> Path:
    """A path that rows can be written to.

    Raises:
        ValueError: its ending is not one of the two formats', or a folder is there.
        FileNotFoundError: its folder does not exist.
    """
    path = Path(output)
    if path.suffix not in _HEADERS or path.is_dir():
        raise ValueError(f"output must be a {' or '.join(_HEADERS)} file, got {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} for {path.name}")
    return path


def fingerprint(model: nn.Module, preprocessing: Any) -> str:
    """A hash of all that an image's row depends on."""
    described = re.sub(" at 0x[0-9a-f]+", "", f"{model!r} {preprocessing!r}")  # of functions
    digest = hashlib.sha256(described.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class FileRows(Rows):
    """Rows that are written as they come, and a journal of the images they are of.

    NAME.part has the rows. NAME.part.jsonl has a line for each batch, with a checksum of its
    rows and a hash of all images so far: what both files agree on is trusted, the rest is
    computed again. At the end the part becomes the file, and NAME.json has what is known of the
    rows.

    Args:
        output: the file.
        network: what the rows depend on besides the images.
        overwrite: whether to replace what is there.

    Raises:
        ValueError: what is there belongs to other images or another network, or another
            process is writing it.
    """

    def __init__(self, output: Path, network: str, overwrite: bool) -> None:
        super().__init__()
        self.output, self.network, self.overwrite = output, network, overwrite
        self.part = output.with_name(output.name + ".part")
        self.journal = output.with_name(output.name + ".part.jsonl")
        self.facts = output.with_name(output.name + ".json")
        self.lock = FileLock(output.with_name(output.name + ".lock"))
        self.digest = hashlib.sha256()
        self.form = b""  # size and dtype of the last images
        self.count = self.number = self.width = 0  # images, rows, columns
        self.open: list[BinaryIO] = []  # the part and the journal

    def __enter__(self) -> Self:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process is writing {self.output}") from None
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.open:
            file.close()
        with suppress(OSError):  # some systems remove no open files
            os.unlink(self.lock.lock_file)
        self.lock.release()

    def resume(self, source: Source) -> int:
        """Skip the images of the source that are done; their number."""
        if self.output.exists() and not self.overwrite:
            record = _first_line(self.facts)
            if record.get("network") != self.network:
                self._refuse(self.output)
            self._remember(record)
            self._skip(source, record["digest"], self.output)
            whole = self.output.stat().st_size == HEADER + self._size()
            if not whole or next(iter(source), None) is not None:
                self._refuse(self.output)
            return self.count
        if self.overwrite or not (self.part.exists() and _first_line(self.journal)):
            self.part.write_bytes(bytes(HEADER))
            self.journal.write_text(json.dumps({"network": self.network}) + "\n")
        self.open = [self.part.open("r+b"), self.journal.open("r+b")]
        self._skip(source, self._read_back(), self.part)
        return self.count

    def add(self, batch: Batch, features: np.ndarray | None) -> None:
        """Write a batch's rows, and then its line."""
        rows = np.empty((0, 0), ROW) if features is None else np.ascontiguousarray(features, ROW)
        data = rows.tobytes()
        self._know(batch.identity)
        line = {
            "count": batch.size,
            "rows": rows.shape[0],
            "width": rows.shape[1],
            "checksum": zlib.crc32(data),
            "digest": self.digest.hexdigest(),
            "names": list(batch.names),
            "labels": list(batch.labels),
            "unreadable": list(batch.unreadable),
        }
        text = json.dumps(line).encode() + b"\n"
        for file, written in zip(self.open, (data, text), strict=True):
            file.write(written)
            file.flush()
        self._remember(line)

    def finish(self) -> Embeddings:
        """Put the file in its place, and map it."""
        if self.open and self.number:
            part, _ = self.open
            part.seek(0)
            part.write(_HEADERS[self.output.suffix](self.number, self.width).ljust(HEADER))
            part.flush()
            os.fsync(part.fileno())
            facts = {
                "network": self.network,
                "digest": self.digest.hexdigest(),
                "count": self.count,
                "rows": self.number,
                "width": self.width,
                "names": self.names,
                "labels": self.labels,
                "unreadable": self.unreadable,
            }
            part.close()
            self.output.unlink(missing_ok=True)  # its rows must not be beside other facts
            self.facts.write_text(json.dumps(facts) + "\n")
            self.part.replace(self.output)
            self.journal.unlink()
        shape = (self.number, self.width)
        rows = np.memmap(self.output, ROW, "r", HEADER, shape) if self.number else None
        return self._embeddings(rows)

    def _read_back(self) -> str:
        """Trust what part and journal agree on, cut off the rest; the hash of its images."""
        part, journal = self.open
        if _line(journal).get("network") != self.network:
            self._refuse(self.part)
        part.seek(HEADER)
        end, digest = journal.tell(), self.digest.hexdigest()
        while line := _line(journal):
            rows = part.read(line["rows"] * line["width"] * ROW.itemsize)
            if zlib.crc32(rows) != line["checksum"]:
                break
            self._remember(line)
            end, digest = journal.tell(), line["digest"]
        journal.seek(end)
        part.seek(HEADER + self._size())
        for file in self.open:
            file.truncate()
        return digest

    def _size(self) -> int:
        return self.number * self.width * ROW.itemsize

    def _remember(self, record: dict[str, Any]) -> None:
        self.count += record["count"]
        self.number += record["rows"]
        self.width = record["width"] or self.width
        self.names += record["names"]
        self.labels += record["labels"]
        self.unreadable += [Unreadable(*each) for each in record["unreadable"]]

    def _skip(self, source: Source, expected: str, path: Path) -> None:
        for identity in source.skip(self.count):
            self._know(identity)
        if self.digest.hexdigest() != expected:
            self._refuse(path)

    def _know(self, identity: Tensor | bytes) -> None:
        if isinstance(identity, bytes):
            self.digest.update(identity)
            return
        form = f"{tuple(identity.shape[1:])} {identity.dtype}".encode()
        if form != self.form:
            self.digest.update(form)
        self.form = form
        self.digest.update(_bytes(identity))

    def _refuse(self, path: Path) -> NoReturn:
        raise ValueError(
            f"{path} is of another network or other images; overwrite=True would replace it"
        )


def _first_line(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    with path.open("rb") as file:
        return _line(file)


def _line(journal: BinaryIO) -> dict[str, Any]:
    """The next line, an object in JSON; empty where it is cut off."""
    line = journal.readline()
    with suppress(ValueError):
        if line.endswith(b"\n"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {}


def _npy_header(rows: int, width: int) -> bytes:
    """The format's version 1.0: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html."""
    described = repr({"descr": ROW.str, "fortran_order": False, "shape": (rows, width)})
    text = described.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _safetensors_header(rows: int, width: int) -> bytes:
    """One tensor, `features`: https://github.com/huggingface/safetensors."""
    offsets = [0, rows * width * ROW.itemsize]
    described = {"features": {"dtype": "F32", "shape": [rows, width], "data_offsets": offsets}}
    return struct.pack("<Q", HEADER - 8) + json.dumps(described).encode()


_HEADERS = {".npy": _npy_header, ".safetensors": _safetensors_header}
