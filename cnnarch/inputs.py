"""The kinds of images that all functions accept, and their names."""

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cnnarch.images import find_images

IMAGE_KINDS = (
    "a path to a file or folder, the contents of a file as bytes, a file opened in binary mode, a "
    "Pillow image, or uint8 pixels as a NumPy array (H, W, C) or a tensor (C, H, W)"
)
"""The kinds of images that all functions accept, also in lists."""
SET_BLOCK = 64  # images of a data set that are decoded together


class NamedImage(NamedTuple):
    """An image of one of the `IMAGE_KINDS`, with a name to show.

    Args:
        name: the path, or if there is none, a number such as "image 3" for the fourth image.
        image: a path to a file, bytes, a Pillow image, or pixels.
    """

    name: str
    image: Any


def is_image_set(images: Any) -> bool:
    """Return whether the images are a labeled set such as `data.test`.

    Raises:
        TypeError: they are a data set with several splits.
    """
    if hasattr(images, "train") and hasattr(images, "test"):
        raise TypeError(
            f"expected images, got {_kind(images)}: pass one of its splits, such as data.test"
        )
    return hasattr(images, "pixels") and hasattr(images, "labels")


def is_image(value: Any) -> bool:
    """Return whether a value is a single image or path of one of the `IMAGE_KINDS`."""
    import numpy as np
    from PIL.Image import Image

    if isinstance(value, np.ndarray | Tensor):
        return value.ndim < 4 and not (isinstance(value, np.ndarray) and value.dtype.kind in "OU")
    kinds = (str, PathLike, bytes, bytearray, memoryview, Image)
    return isinstance(value, kinds) or callable(getattr(value, "read", None))


def name_images(images: Any) -> Iterator[NamedImage]:
    """Yield each image with its name: of a folder, of a data set, of a batch, or of an iterable.

    Raises:
        ValueError: a folder contains no images.
        TypeError: an image is not of one of the `IMAGE_KINDS`.
        FileNotFoundError: the only image is a path that does not exist.
    """
    if isinstance(images, str | PathLike):
        yield from _name_files([images])
    elif is_image_set(images):
        yield from _name_set(images)
    elif is_image(images):
        yield _name_image(images, 0)
    elif isinstance(images, Iterable) and not isinstance(images, Mapping):
        for i, image in enumerate(images):
            if isinstance(image, str | PathLike) and Path(image).is_dir():
                yield from _name_files([image])
            else:
                yield _name_image(image, i)
    else:
        raise TypeError(
            f"expected {IMAGE_KINDS}, a list of these, or an image set such as data.test; got "
            f"{_kind(images)}"
        )


def _name_files(paths: Iterable[str | PathLike[str]]) -> Iterator[NamedImage]:
    return (NamedImage(fspath(path), path) for path in find_images(paths))


def _name_set(images: Any) -> Iterator[NamedImage]:
    paths = getattr(images.pixels, "paths", None)
    for start in range(0, len(images), SET_BLOCK):
        numbers = range(start, min(start + SET_BLOCK, len(images)))
        for i, pixels in zip(numbers, images.pixels[torch.tensor(numbers)], strict=True):
            yield NamedImage(fspath(paths[i]) if paths else f"image {i}", pixels)


def _name_image(image: Any, i: int) -> NamedImage:
    if not is_image(image):
        raise TypeError(f"image {i} is a {_kind(image)}; expected {IMAGE_KINDS}")
    if isinstance(image, str | PathLike):
        return NamedImage(fspath(image), image)
    path = getattr(image, "filename", None) or getattr(image, "name", None)
    name = path if isinstance(path, str) and path else f"image {i}"
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if callable(read := getattr(image, "read", None)):
        # Like Pillow, rewind: the file may have been read before.
        if callable(seekable := getattr(image, "seekable", None)) and seekable():
            image.seek(0)
        image = read()
        if not isinstance(image, bytes):
            raise TypeError(f"{name} is opened in text mode; open the file with mode 'rb'")
    return NamedImage(name, image)


def _kind(value: Any) -> str:
    return type(value).__name__
