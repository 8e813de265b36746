"""Image files as pixels of one size, decoded on demand or in advance."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from os import fspath
from pathlib import Path

import torch
from torch import Tensor

from cnnarch.contents import CONTENT_LIMIT
from cnnarch.folders import normalized
from cnnarch.images import Unreadable, decode_image, find_unreadable, read_together, try_decode
from cnnarch.preprocessing import Preprocessing

MEMORY_LIMIT = 2**31  # bytes; folders with more pixel data are decoded batch by batch


class FilePixels:
    """Image files, decoded and resized to squares, either on demand or all in advance.

    Args:
        paths: the files.
        channels: 1 or 3.
        preprocessing: how to resize images; the squares have side length `resize_size`.
        root: the folder to which `names` are relative; None means the files' common folder.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        channels: int,
        preprocessing: Preprocessing,
        root: Path | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.channels = channels
        self.preprocessing = preprocessing
        self.root = root
        self.decoded: Tensor | None = None
        """The pixels of all files if they are in memory."""

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        channels: int,
        preprocessing: Preprocessing,
        root: Path | None = None,
    ) -> "FilePixels":
        """Create an instance; decode all files in advance if their pixels fit in 2 GiB.

        Raises:
            ValueError: decoded files cannot be read; the message names all of them.
        """
        files = cls(paths, channels, preprocessing, root)
        if files._fits_in_memory():
            unreadable = files._decode()
            if unreadable:
                raise ValueError("; ".join(file.reason for file in unreadable))
        return files

    @classmethod
    def read_valid(
        cls,
        paths: Sequence[Path],
        channels: int,
        preprocessing: Preprocessing,
        root: Path,
        *,
        thorough: bool,
    ) -> "tuple[FilePixels, list[Unreadable]]":
        """Like `read`, but return the files that cannot be read instead of raising an error.

        All files are decoded, unless their pixels exceed 2 GiB, the files themselves exceed 2 GiB,
        and `thorough` is False. In that case, only the start and the end of each file are checked.
        """
        files = cls(paths, channels, preprocessing, root)
        if files._fits_in_memory():
            return files, files._decode()
        thorough = thorough or files.size <= CONTENT_LIMIT
        unreadable = find_unreadable(files.paths, channels, thorough=thorough)
        files._remove(unreadable)
        return files, unreadable

    def _fits_in_memory(self) -> bool:
        pixels = self.channels * self.preprocessing.resize_size**2
        return len(self.paths) * pixels <= MEMORY_LIMIT

    def _decode(self) -> list[Unreadable]:
        """Decode all files; remove and return those that cannot be read."""

        def read(path: Path) -> Tensor | Unreadable:
            pixels = try_decode(path, self.channels, fspath(path))
            return pixels if isinstance(pixels, Unreadable) else self._resize(pixels)

        found = read_together(self.paths, read)
        self._remove([each for each in found if isinstance(each, Unreadable)])
        pixels = [each for each in found if isinstance(each, Tensor)]
        side = self.preprocessing.resize_size
        shape = (0, self.channels, side, side)
        self.decoded = torch.stack(pixels) if pixels else torch.empty(shape, dtype=torch.uint8)
        return [each for each in found if isinstance(each, Unreadable)]

    def _remove(self, unreadable: Sequence[Unreadable]) -> None:
        names = {file.name for file in unreadable}
        self.paths = tuple(path for path in self.paths if fspath(path) not in names)

    @property
    def names(self) -> list[str]:
        """The path of each file relative to `root`, in Unicode's composed form."""
        root = self.root or Path(os.path.commonpath([path.parent for path in self.paths]))
        depth = len(root.parts)
        return [normalized("/".join(path.parts[depth:])) for path in self.paths]

    @property
    def size(self) -> int:
        """Total size of the files in bytes."""
        return sum(path.stat().st_size for path in self.paths if path.exists())

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return the pixels of the files at `indices`: uint8, (N, channels, side, side)."""
        if self.decoded is not None:
            return self.decoded[indices]
        return torch.stack(read_together([self.paths[i] for i in indices], self._square))

    def _square(self, path: Path) -> Tensor:
        return self._resize(decode_image(path, self.channels))

    @cached_property
    def _resize(self) -> Callable[[Tensor], Tensor]:
        """Resize to a square without the center crop, so augmentation can use every pixel."""
        side, zeros = self.preprocessing.resize_size, (0.0,) * self.channels
        return replace(self.preprocessing, crop_size=side, mean=zeros, std=zeros).crop()

    def subset(self, indices: Tensor) -> "FilePixels":
        """Return the files at `indices`, in that order."""
        paths = [self.paths[i] for i in indices]
        files = FilePixels(paths, self.channels, self.preprocessing, self.root)
        files.decoded = None if self.decoded is None else self.decoded[indices]
        return files

    def prepared(self, preprocessing: Preprocessing) -> "FilePixels":
        """Return the same files, decoded again if `preprocessing` resizes them differently."""
        old = self.preprocessing
        if old == replace(preprocessing, crop_size=old.crop_size, mean=old.mean, std=old.std):
            return self
        return FilePixels.read(self.paths, self.channels, preprocessing, self.root)
