"""Labeled images, and the preprocessing that turns their pixels into a network's input."""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import fspath
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnarch.folders import normalized
from cnnarch.images import Unreadable, decode_image, find_unreadable, read_together, try_decode
from cnnarch.preprocessing import Preprocessing, convert_channels

MEMORY_LIMIT = 2**31  # bytes; folders with more pixel data are decoded batch by batch
CONTENT_LIMIT = 2**31  # bytes; in larger sets of files, not every file is read in advance


def measure_preprocessing(pixels: Tensor, size: int, channels: int) -> Preprocessing:
    """Return preprocessing that normalizes with the mean and standard deviation of `pixels`.

    Args:
        pixels: uint8, (N, C, H, W).
        size: the network's input size in pixels.
        channels: the network's number of input channels.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in convert_channels(pixels, channels).unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(float(share @ values))
        std.append(float(share @ (values - mean[-1]).square()) ** 0.5)
    std = [s if s > 1e-6 else 1.0 for s in std]  # a constant channel becomes 0
    return Preprocessing(size, size, mean=tuple(mean), std=tuple(std))


class SeededIndices(NamedTuple):
    """The indices of a batch and the seed for its augmentation."""

    indices: Tensor
    seed: int = 0


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


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Images of one split with their labels, loaded batch by batch.

    Args:
        pixels: uint8, (N, C, H, W), in memory or in files.
        labels: class indices, (N,).
        classes: class names.
        preprocessing: turns pixels into the network's input.

    Raises:
        ValueError: there are no images, the numbers of images and labels differ, or a label is
            not a valid class index.
    """

    pixels: Tensor | FilePixels
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ValueError("an image set must contain at least one image")
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"got {len(self.pixels)} images but {len(self.labels)} labels")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"labels for {len(self.classes)} classes must be from 0 to "
                f"{len(self.classes) - 1}, got {low} to {high}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, batch: SeededIndices) -> tuple[Tensor, Tensor, int]:
        """Return the pixels and labels of a batch, and its seed."""
        return self.pixels[batch.indices], self.labels[batch.indices], batch.seed

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the images at `indices`, in that order."""
        pixels = self.pixels
        chosen = pixels.subset(indices) if isinstance(pixels, FilePixels) else pixels[indices]
        return replace(self, pixels=chosen, labels=self.labels[indices])

    def prepared(self, preprocessing: Preprocessing) -> "ImageSet":
        """Return the same images with different preprocessing."""
        pixels = self.pixels
        if isinstance(pixels, FilePixels):
            pixels = pixels.prepared(preprocessing)
        return replace(self, pixels=pixels, preprocessing=preprocessing)

    @property
    def channels(self) -> int:
        """Number of channels in the network's input."""
        return len(self.preprocessing.mean)

    def inputs(self, indices: Tensor) -> Tensor:
        """Return the network's input for the images at `indices`."""
        return self.prepare(self.pixels[indices])

    def prepare(self, pixels: Tensor) -> Tensor:
        """Preprocess uint8 pixels: (N, C, H, W) -> (N, channels, size, size)."""
        return self._transform(pixels)

    @cached_property
    def _transform(self) -> Callable[[Tensor], Tensor]:
        return self.preprocessing.transform()


class RawImages(NamedTuple):
    """The pixels and labels of each split before preprocessing, and the class names.

    Args:
        train, test, validation: pixels and labels of a split; validation may be missing.
        classes: the class names.
        found: for a folder, a sentence on what it contains.
        is_partial: whether some of the folder's contents are not used.
    """

    train: tuple[Tensor | FilePixels, Tensor]
    test: tuple[Tensor | FilePixels, Tensor]
    classes: Sequence[str]
    validation: tuple[Tensor | FilePixels, Tensor] | None = None
    found: str = ""
    is_partial: bool = False


class ImageData(NamedTuple):
    """A data set with a training split and a test split.

    Args:
        name: the name, as passed to `load_data`.
        train: training images; a fraction of them may be held out for validation.
        test: images for the final evaluation, never used to select a model or setting.
        validation: images from a separate validation folder; None holds out training images.
    """

    name: str
    train: ImageSet
    test: ImageSet
    validation: ImageSet | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.train.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing that turns pixels into the network's input."""
        return self.train.preprocessing

    @property
    def channels(self) -> int:
        """Number of channels in the network's input."""
        return self.train.channels

    def prepared(self, preprocessing: Preprocessing) -> "ImageData":
        """Return the same images with different preprocessing."""
        train, test = (images.prepared(preprocessing) for images in (self.train, self.test))
        validation = self.validation and self.validation.prepared(preprocessing)
        return ImageData(self.name, train, test, validation)

    def adapt_to(self, model: nn.Module, image_resolution: int | None = None) -> "ImageData":
        """Return the same images with preprocessing that suits a network.

        Args:
            model: its pretrained weights, if any, determine the preprocessing. Its
                `min_input_size` is the minimum input size.
            image_resolution: input size in pixels. None uses the size specified by the weights,
                otherwise the image size, or the network's minimum size if that is larger.
        """
        minimum = getattr(model, "min_input_size", 1)
        found = getattr(model, "preprocessing", None) or self.preprocessing
        size = image_resolution or max(minimum, found.crop_size)
        if getattr(model, "fixed_input_size", False) and image_resolution is None:
            size = minimum
        # The weights' mean cannot be used if the number of input channels was changed.
        found = found if len(found.mean) == self.channels else self.preprocessing
        return self.prepared(replace(found, crop_size=size, resize_size=size))

    def hold_back(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet | None]:
        """Split the training images randomly into a training set and a validation set.

        The fraction is held out of each class, of which at least one image is kept for training.
        For files, the choice depends on a hash of the seed and the name of each file, so adding or
        removing a file hardly changes it. If there is a separate validation set, it is used.

        Args:
            fraction: fraction to hold out for validation, in [0, 1); 0 returns all images and None.
            seed: random seed for the split.

        Raises:
            ValueError: `fraction` is out of range.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"validation must be in [0, 1), got {fraction!r}")
        if not fraction or self.validation is not None:
            return self.train, self.validation if fraction else None
        order, labels = self._random_order(seed), self.train.labels.tolist()
        members_of: dict[int, list[int]] = {}
        for i in order:
            members_of.setdefault(labels[i], []).append(i)
        held: list[int] = []
        for members in members_of.values():
            held += members[: min(share_of(len(members), fraction), len(members) - 1)]
        if not held:
            return self.train, None
        chosen = set(held)
        kept = [i for i in order if i not in chosen]
        return self.train.subset(torch.tensor(kept)), self.train.subset(torch.tensor(held))

    def _random_order(self, seed: int) -> list[int]:
        pixels = self.train.pixels
        if isinstance(pixels, FilePixels):
            keys = [f"{seed}/{name}".encode(errors="surrogateescape") for name in pixels.names]
            return sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i]).digest())
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.train), generator=generator).tolist()


def share_of(count: int, fraction: float, minimum: int = 0) -> int:
    """Return a fraction of a number of images, rounded to the nearest integer."""
    return max(minimum, math.floor(count * fraction + 0.5))
