"""Where images come from: arrays, files that are read ahead, loaders."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import Unreadable, decode_image, find_images, read_ahead, reading_threads

__all__ = ["Batch", "Source", "open_source"]

NO_PREPROCESSING = (
    "the network does not say how images are prepared for it; pass one, such as "
    "preprocessing=cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
)


class Batch(NamedTuple):
    """Images as the network reads them, and what is known of them.

    `identity` is what tells them from others; `size` includes those that cannot be read.
    """

    images: Tensor | None
    identity: Tensor | bytes
    size: int
    names: Sequence[str] = ()
    labels: Sequence[int] = ()
    unreadable: Sequence[Unreadable] = ()


class Source(Protocol):
    """Images that can be read once, in an order; `total` is their number if it is known."""

    total: int | None

    def skip(self, count: int) -> Iterator[Tensor | bytes]:
        """Identities of the next `count` images, which are left out."""

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the rest."""


def open_source(
    model: Any, images: Any, batch_size: int, preprocessing: Any, skip_unreadable: bool
) -> Source:
    """A source of whatever `embed` takes; its errors are those of `embed`."""
    prepare = None if preprocessing is None else _Preparation(preprocessing)
    if isinstance(images, Tensor | np.ndarray):
        _check_array(images)
        return _Arrays(_split(images, batch_size), prepare, len(images))
    if isinstance(images, str | PathLike):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(i, str | PathLike) for i in images):
        if not images:
            raise ValueError("there are no images: the list is empty")
        if prepare is None:
            raise ValueError(NO_PREPROCESSING)
        channels = getattr(model, "in_channels", 3)
        return _Files(find_images(images), prepare, channels, batch_size, skip_unreadable)
    if not isinstance(images, Iterable):
        raise TypeError(f"expected arrays, files or a loader, got {type(images).__name__}")
    data = None if getattr(images, "drop_last", False) else getattr(images, "dataset", None)
    total = len(data) if isinstance(data, Sized) else None
    return _Arrays(images, prepare, total)


class _Preparation:
    """From pixels in uint8 to what the network reads: a `Preprocessing`, or any function."""

    def __init__(self, preprocessing: Any) -> None:
        self.crop: Callable[[Tensor], Tensor] = preprocessing
        self.scale: Callable[[Tensor], Tensor] | None = None
        if not callable(preprocessing):
            if not hasattr(preprocessing, "transform"):
                raise TypeError(
                    f"preprocessing must be a Preprocessing or a function: {preprocessing!r}"
                )
            self.crop, self.scale = preprocessing.crop(), preprocessing.scale

    def one(self, pixels: Tensor) -> Tensor:
        """What threads do with each image."""
        image = self.crop(pixels)
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise TypeError(f"preprocessing must give a tensor (C, H, W), gave {image!r:.200}")
        if self.scale is not None:  # NumPy copies, as PyTorch would start threads for it
            image = torch.from_numpy(np.ascontiguousarray(image.numpy()))
        return image

    def several(self, images: Sequence[Tensor]) -> Tensor:
        """A batch of what `one` gave."""
        if self.scale is None:
            return torch.stack(list(images))
        return self.scale(torch.from_numpy(np.stack([image.numpy() for image in images])))

    def batch(self, pixels: Tensor) -> Tensor:
        """What becomes of images that come in batches."""
        images = self.crop(pixels)
        return images if self.scale is None else self.scale(images.cpu())


class _Files:
    """Image files, read ahead while the network computes.

    What tells one from others is its name, size and time of change.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: _Preparation,
        channels: int,
        batch_size: int,
        skip_unreadable: bool,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"image files have 1 or 3 channels, the network reads {channels}")
        self.paths, self.prepare, self.channels = paths, prepare, channels
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        self.total: int | None = len(paths)

    def skip(self, count: int) -> Iterator[bytes]:
        skipped, self.paths = self.paths[:count], self.paths[count:]
        return map(_file_identity, skipped)

    def __iter__(self) -> Iterator[Batch]:
        threads = reading_threads()
        ahead = 2 * self.batch_size
        with closing(read_ahead(self.paths, self._read, num_threads=threads, ahead=ahead)) as read:
            for start in range(0, len(self.paths), self.batch_size):
                paths = self.paths[start : start + self.batch_size]
                images = [(fspath(path), next(read)) for path in paths]
                readable = [(name, i) for name, i in images if isinstance(i, Tensor)]
                _check_sizes(readable)
                tensors = [image for _, image in readable]
                yield Batch(
                    self.prepare.several(tensors) if tensors else None,
                    b"".join(map(_file_identity, paths)),
                    len(paths),
                    names=[name for name, _ in readable],
                    unreadable=[i for _, i in images if isinstance(i, Unreadable)],
                )

    def _read(self, path: Path) -> Tensor | Unreadable:
        try:
            pixels = decode_image(path, self.channels)
        except (OSError, ValueError) as error:
            if not self.skip_unreadable:
                raise
            return Unreadable(fspath(path), str(error))
        return self.prepare.one(pixels)


def _file_identity(path: Path) -> bytes:
    try:
        status = path.stat()
    except OSError:  # it went away in the meantime
        return f"{path}\n".encode(errors="surrogateescape")
    return f"{path}\0{status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape")


def _check_sizes(images: Sequence[tuple[str, Tensor]]) -> None:
    for name, image in images[1:]:
        first, like = images[0]
        if image.shape != like.shape:
            raise ValueError(
                f"images of one size are needed: {first} is {tuple(like.shape)} when it is "
                f"prepared, {name} is {tuple(image.shape)}"
            )


class _Arrays:
    """Batches of a loader, or of an array that was split."""

    def __init__(
        self,
        batches: Iterable[Any],
        prepare: _Preparation | None,
        total: int | None,
    ) -> None:
        self.batches: Iterator[tuple[Tensor, Sequence[int]]] = map(_read_batch, batches)
        self.prepare = prepare
        self.total = total

    def skip(self, count: int) -> Iterator[Tensor]:
        while count and (found := next(self.batches, None)):
            images, labels = found
            if len(images) > count:  # batches were of another size
                self.batches = chain([(images[count:], labels[count:])], self.batches)
            yield images[:count]
            count -= min(count, len(images))

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.batches:
            yield self._batch(images, labels)

    def _batch(self, images: Tensor, labels: Sequence[int]) -> Batch:
        inputs = images
        if images.dtype == torch.uint8:
            if self.prepare is None:
                raise ValueError(f"pixels in uint8: {NO_PREPROCESSING}")
            inputs = self.prepare.batch(images)
        elif not images.is_floating_point():
            raise TypeError(f"images must be floats or uint8, got {images.dtype}")
        return Batch(inputs, images, len(images), labels=labels)


def _check_array(images: Tensor | np.ndarray) -> None:
    if images.ndim != 4:
        raise ValueError(f"expected images of 4 dimensions, got shape {tuple(images.shape)}")
    if not len(images):
        raise ValueError(f"there are no images: the array's shape is {tuple(images.shape)}")
    if _is_by_pixel(images) and images.shape[-1] not in (1, 3):
        raise ValueError(
            f"NumPy arrays of pixels are (N, H, W, 1 or 3), got {images.shape}; pixels of another "
            "order can be given as a tensor, (N, C, H, W)"
        )


def _is_by_pixel(images: Tensor | np.ndarray) -> bool:
    return isinstance(images, np.ndarray) and images.dtype == np.uint8


def _split(images: Tensor | np.ndarray, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        if isinstance(batch, np.ndarray):  # it may be mapped from a file, which stays as it is
            batch = torch.from_numpy(np.array(batch))
        yield batch.permute(0, 3, 1, 2) if _is_by_pixel(images) else batch


def _read_batch(batch: Any) -> tuple[Tensor, Sequence[int]]:
    """Images and labels of what a loader gives."""
    images, *rest = batch if isinstance(batch, tuple | list) else (batch,)
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"a batch must be, or begin with, a tensor (N, C, H, W), got {found}")
    labels = rest[0] if rest else None
    if isinstance(labels, Tensor) and labels.shape == images.shape[:1]:
        return images, labels.tolist()
    return images, ()
