"""Batches of images from arrays, files or loaders."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import Unreadable, check_file_channels, find_images, read_ahead, try_decode
from cnnarch.preprocessing import Preprocessing

NO_PREPROCESSING = (
    "the network has no preprocessing; pass one, such as "
    "preprocessing=cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
)


class Origin(NamedTuple):
    """The images from which features were computed.

    Args:
        size: number of images, including unreadable ones.
        names: file names of the readable images.
        labels: labels from a loader.
        unreadable: files that cannot be read.
    """

    size: int = 0
    names: Sequence[str] = ()
    labels: Sequence[int] = ()
    unreadable: Sequence[Unreadable] = ()


def join(origins: Iterable[Origin]) -> Origin:
    """Concatenate the origins of consecutive batches."""
    sizes, *lists = zip(Origin(), *origins, strict=True)
    names, labels, unreadable = map(list, map(chain.from_iterable, lists))
    return Origin(sum(sizes), names, labels, [Unreadable(*each) for each in unreadable])


class InputBatch(NamedTuple):
    """A batch of network inputs.

    Args:
        images: (N, C, H, W), or None if no image in the batch can be read.
        identities: bytes that identify each readable image.
        origin: origin of the images.
    """

    images: Tensor | None
    identities: Iterable[bytes]
    origin: Origin


class MissingImagesError(ValueError):
    """Raised if saved images are not among the images of a source.

    Args:
        count: number of missing images.
        name: one of them.
    """

    def __init__(self, count: int, name: str) -> None:
        super().__init__(f"{count} images are missing, such as {name}")
        self.count, self.name = count, name


def open_source(
    model: Any, images: Any, batch_size: int, preprocessing: Any, skip_unreadable: bool
) -> "ImageSource":
    """Return a source for any input that `embed` accepts; reject all other inputs."""
    prepare = None if preprocessing is None else _Preparation(preprocessing)
    if isinstance(images, Tensor | np.ndarray):
        batches = _split(_channels_first(images), batch_size)
        return _ArraySource(batches, prepare, len(images))
    if isinstance(images, str | PathLike):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(i, str | PathLike) for i in images):
        if not images:
            raise ValueError("there are no images: the list is empty")
        if prepare is None:
            raise ValueError(NO_PREPROCESSING)
        channels = getattr(model, "in_channels", 3)
        check_file_channels(channels)
        return _FileSource(find_images(images), prepare, channels, batch_size, skip_unreadable)
    if not isinstance(images, Iterable):
        raise TypeError(f"expected arrays, files or a loader, got {type(images).__name__}")
    data = None if getattr(images, "drop_last", False) else getattr(images, "dataset", None)
    return _ArraySource(images, prepare, len(data) if isinstance(data, Sized) else None)


class _Preparation:
    """Converts uint8 pixels to network inputs with a `Preprocessing` or any function."""

    def __init__(self, preprocessing: Any) -> None:
        self.crop: Callable[[Tensor], Tensor] = preprocessing
        self.scale: Callable[[Tensor], Tensor] | None = None
        if isinstance(preprocessing, Preprocessing):
            self.crop, self.scale = preprocessing.crop(), preprocessing.scale
        elif not callable(preprocessing):
            raise TypeError(
                f"preprocessing must be a Preprocessing or a function: {preprocessing!r}"
            )

    def one(self, pixels: Tensor) -> Tensor:
        """Prepare one image without scaling its values. Called in the threads that read files."""
        image = self.crop(pixels)
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise TypeError(f"preprocessing must return a tensor (C, H, W), got {image!r:.200}")
        if self.scale is not None:  # NumPy copies without starting threads, unlike PyTorch
            image = torch.from_numpy(np.ascontiguousarray(image.numpy()))
        return image

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """Stack images returned by `one` into a batch and scale their values."""
        if self.scale is None:
            return torch.stack(list(images))
        return self.scale(torch.from_numpy(np.stack([image.numpy() for image in images])))

    def batch(self, pixels: Tensor) -> Tensor:
        """Prepare a batch of pixels."""
        images = self.crop(pixels)
        return images if self.scale is None else self.scale(images.cpu())


class _FileSource:
    """Image files, prefetched while the network runs.

    A file is identified by its name, size and modification time.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        prepare: _Preparation,
        channels: int,
        batch_size: int,
        skip_unreadable: bool,
    ) -> None:
        self.paths, self.prepare, self.channels = paths, prepare, channels
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        self.total: int | None = len(paths)
        self.names = [fspath(path) for path in paths]
        """The names of all files, including those that are skipped."""

    def skip(self, saved: Origin) -> Iterator[bytes]:
        """Skip the saved files, in any order, and return their identities in the saved order.

        Raises:
            MissingImagesError: some of them are not among the files.
        """
        counts, remaining = Counter(saved.names), []
        for path, name in zip(self.paths, self.names, strict=True):
            if counts[name]:
                counts[name] -= 1
            else:
                remaining.append(path)
        if missing := list(counts.elements()):
            raise MissingImagesError(len(missing), missing[0])
        self.paths = remaining
        return map(_file_identity, saved.names)

    def __iter__(self) -> Iterator[InputBatch]:
        with closing(read_ahead(self.paths, self._read, ahead=2 * self.batch_size)) as read:
            for start in range(0, len(self.paths), self.batch_size):
                paths = self.paths[start : start + self.batch_size]
                images = [(fspath(path), next(read)) for path in paths]
                readable = [(name, i) for name, i in images if isinstance(i, Tensor)]
                _check_sizes(readable)
                names = [name for name, _ in readable]
                unreadable = [i for _, i in images if isinstance(i, Unreadable)]
                yield InputBatch(
                    self.prepare.stack([i for _, i in readable]) if readable else None,
                    map(_file_identity, names),
                    Origin(len(paths), names, unreadable=unreadable),
                )

    def _read(self, path: Path) -> Tensor | Unreadable:
        pixels = try_decode(path, self.channels, fspath(path))
        if isinstance(pixels, Tensor):
            return self.prepare.one(pixels)
        if not self.skip_unreadable:
            raise ValueError(pixels.reason)
        return pixels


def _file_identity(name: str) -> bytes:
    try:
        status = os.stat(name)
    except OSError:  # deleted since the folder was listed
        return f"{name}\n".encode(errors="surrogateescape")
    return f"{name}\0{status.st_size} {status.st_mtime_ns}\n".encode(errors="surrogateescape")


def _check_sizes(images: Sequence[tuple[str, Tensor]]) -> None:
    for name, image in images[1:]:
        first, expected = images[0]
        if image.shape != expected.shape:
            raise ValueError(
                f"images must be the same size after preprocessing: {first} is "
                f"{tuple(expected.shape)}, {name} is {tuple(image.shape)}"
            )


class _ArraySource:
    """Batches from a loader or from slices of an array. Images are identified by their values."""

    def __init__(
        self,
        batches: Iterable[Any],
        prepare: _Preparation | None,
        total: int | None,
    ) -> None:
        self.batches: Iterator[tuple[Tensor, Sequence[int]]] = map(_read_batch, batches)
        self.prepare = prepare
        self.total = total
        self.names: list[str] = []  # these images have no names

    def skip(self, saved: Origin) -> Iterator[bytes]:
        """Skip as many images as are saved, and return their identities."""
        count = saved.size
        while count and (found := next(self.batches, None)):
            images, labels = found
            if len(images) > count:  # the earlier call used a different batch size
                self.batches = chain([(images[count:], labels[count:])], self.batches)
            yield from _identities(images[:count])
            count -= min(count, len(images))

    def __iter__(self) -> Iterator[InputBatch]:
        for images, labels in self.batches:
            inputs = images
            if images.dtype == torch.uint8:
                if self.prepare is None:
                    raise ValueError(f"images are uint8 pixels, but {NO_PREPROCESSING}")
                inputs = self.prepare.batch(images)
            elif not images.is_floating_point():
                raise TypeError(f"images must be floats or uint8, got {images.dtype}")
            origin = Origin(len(images), labels=labels)
            yield InputBatch(inputs, _identities(images), origin)


ImageSource = _FileSource | _ArraySource


def _identities(images: Tensor) -> Iterator[bytes]:
    for image in images:
        digest = hashlib.sha256(f"{tuple(image.shape)} {image.dtype}".encode())
        digest.update(tensor_bytes(image))
        yield digest.digest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor of any dtype."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _channels_first(images: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Check an array, and return it as (N, C, H, W)."""
    if images.ndim != 4:
        raise ValueError(f"expected images with 4 dimensions, got shape {tuple(images.shape)}")
    if not len(images):
        raise ValueError(f"there are no images: the array has shape {tuple(images.shape)}")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        return images
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"NumPy arrays of pixels must be (N, H, W, 1 or 3), got {images.shape}; pass pixels in "
            "other layouts as a tensor (N, C, H, W)"
        )
    return images.transpose(0, 3, 1, 2)


def _split(images: Tensor | np.ndarray, batch_size: int) -> Iterator[Tensor]:
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        if isinstance(batch, np.ndarray):  # copied, because it may be a read-only memory map
            batch = torch.from_numpy(np.array(batch))
        yield batch


def _read_batch(batch: Any) -> tuple[Tensor, Sequence[int]]:
    """Return the images and labels of a loader's batch."""
    images, *targets = batch if isinstance(batch, tuple | list) else (batch,)
    if not isinstance(images, Tensor) or images.ndim != 4:
        found = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"a batch must be, or begin with, a tensor (N, C, H, W), got {found}")
    labels = targets[0] if targets else None
    if isinstance(labels, Tensor) and labels.shape == images.shape[:1]:
        return images, labels.tolist()
    return images, ()
