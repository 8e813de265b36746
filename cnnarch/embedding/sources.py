"""Batches of images from arrays, loaders, image sets, or lists of images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import chain, islice
from os import fspath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from cnnarch.contents import hash_pixels
from cnnarch.embedding.batches import NO_PREPROCESSING, InputBatch, Origin, Preparation
from cnnarch.embedding.image_list import ImageListSource
from cnnarch.inputs import is_image, is_image_set


def open_source(
    model: Any, images: Any, batch_size: int, preprocessing: Any, skip_unreadable: bool
) -> "ImageSource":
    """Return a source for any input that `embed` accepts; reject all other inputs."""
    prepare = None if preprocessing is None else Preparation(preprocessing)
    if is_image_set(images):
        data = images.matched_to(model)
        blocks = torch.split(torch.arange(len(data)), batch_size)
        found = ((data.inputs(block), data.labels[block]) for block in blocks)
        names = list(map(fspath, getattr(data.pixels, "paths", ())))
        return ArraySource(found, None, len(data), names)
    if isinstance(images, Tensor | np.ndarray) and images.ndim > 2:
        images = _channels_first(images[None] if images.ndim == 3 else images)
        return ArraySource(_split(images, batch_size), prepare, len(images))
    loaded = None if getattr(images, "drop_last", False) else getattr(images, "dataset", None)
    images, are_batches = _examine(images)
    if are_batches:
        return ArraySource(images, prepare, len(loaded) if isinstance(loaded, Sized) else None)
    if prepare is None:
        raise ValueError(NO_PREPROCESSING)
    channels = getattr(model, "in_channels", 3)
    return ImageListSource(images, prepare, channels, batch_size, skip_unreadable)


def _examine(images: Any) -> tuple[Any, bool]:
    """Return the images, and whether they are batches, which their first item shows."""
    if is_image(images) or isinstance(images, Mapping) or not isinstance(images, Iterable):
        return images, False
    if isinstance(images, DataLoader):
        return images, True
    items = iter(images)
    first = list(islice(items, 1))
    if not first and isinstance(images, Sequence):
        raise ValueError("there are no images: the list is empty")
    return chain(first, items), all(map(_is_batch, first))


def _is_batch(item: Any) -> bool:
    if isinstance(item, tuple | list):
        return bool(item) and isinstance(item[0], Tensor)
    return isinstance(item, Tensor) and item.ndim != 3


class ArraySource:
    """Batches from a loader or from slices of an array. Images are identified by their values.

    Args:
        batches: tensors (N, C, H, W), or tuples of a tensor and labels.
        prepare: converts uint8 pixels to network inputs.
        total: number of images if it is known.
        names: names of the images if they have any.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        prepare: Preparation | None,
        total: int | None,
        names: Sequence[str] = (),
    ) -> None:
        self.batches: Iterator[tuple[Tensor, Sequence[int]]] = map(_read_batch, batches)
        self.prepare = prepare
        self.total = total
        self.names = names

    def skip(self, saved: Origin) -> Iterator[bytes]:
        """Skip as many images as are saved, and return their identities."""
        count = saved.size
        while count and (found := next(self.batches, None)):
            images, labels = found
            if len(images) > count:  # the earlier call used a different batch size
                self.batches = chain([(images[count:], labels[count:])], self.batches)
            yield from map(hash_pixels, images[:count])
            count -= min(count, len(images))

    def match(self, saved: Origin) -> None:
        """Do nothing: the values of the saved images show whether they are the same."""

    def arrange(self, origin: Origin) -> tuple[list[int] | None, Origin]:
        """Return the order of the rows, None for the same order, and the origin in this order."""
        return None, origin._replace(names=self.names)

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
            yield InputBatch(inputs, map(hash_pixels, images), origin)


ImageSource = ImageListSource | ArraySource


def _channels_first(images: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Check an array, and return it as (N, C, H, W)."""
    if images.ndim != 4:
        raise ValueError(f"expected images with 3 or 4 dimensions, got shape {tuple(images.shape)}")
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
