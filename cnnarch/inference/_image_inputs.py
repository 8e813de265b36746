"""The inputs that `Predictor` accepts: files, folders, images, arrays and tensors."""

from collections.abc import Iterable, Iterator, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import find_images

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageLike: TypeAlias = str | PathLike[str] | bytes | Image | np.ndarray | Tensor


def named_images(images: Any) -> "tuple[Iterable[tuple[str, ImageLike]], int | None]":
    """Return each image with its name, and the number of images if known."""
    from PIL.Image import Image

    if isinstance(images, str | PathLike):
        images = find_images([images])
    if isinstance(images, bytes | Image) or getattr(images, "ndim", 4) < 4:
        images = [images]
    if not isinstance(images, Iterable):
        raise TypeError(f"expected images or paths, got {type(images).__name__}")
    if isinstance(images, Sequence):  # may contain folders, each with several images
        images = list(_each_named(images))
        return images, len(images)
    return _each_named(images), len(images) if isinstance(images, np.ndarray | Tensor) else None


def _each_named(images: Iterable[Any]) -> "Iterator[tuple[str, ImageLike]]":
    from PIL.Image import Image

    for i, image in enumerate(images):
        if isinstance(image, str | PathLike):
            if Path(image).is_dir():
                yield from ((fspath(path), path) for path in find_images([image]))
            else:
                yield fspath(image), image
        elif isinstance(image, bytes | Image | np.ndarray | Tensor):
            yield getattr(image, "filename", "") or f"image {i}", image
        else:
            raise TypeError(f"image {i} is a {type(image).__name__}, expected an image or a path")


def to_pixels(name: str, image: np.ndarray | Tensor) -> Tensor:
    """Return an array or tensor as a tensor of shape (C, H, W)."""
    if image.dtype != (np.uint8 if isinstance(image, np.ndarray) else torch.uint8):
        raise TypeError(f"the pixels of {name} must be uint8, got {image.dtype}")
    if isinstance(image, Tensor):
        pixels, order = image.cpu(), "(C, H, W)"
    else:  # gray images may have two dimensions
        rows = image[..., None] if image.ndim == 2 else image
        pixels, order = torch.from_numpy(np.array(rows)), "(H, W, C)"
        pixels = pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels
    if pixels.ndim != 3 or not pixels.numel():
        raise ValueError(f"{name} must have shape {order}, got {tuple(image.shape)}")
    return pixels
