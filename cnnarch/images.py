"""Find, decode and resize image files."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_image", "resize_images"]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings, in lower case, of the files that `find_images` looks for in folders."""


def find_images(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """The files among `paths`, and the images anywhere below the folders among them, sorted.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_file():
            found.append(path)
        elif path.is_dir():
            below = [p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES]
            if not below:
                raise ValueError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
            found += sorted(below)
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    return found


def read_image(path: str | PathLike[str], channels: int = 3) -> Tensor:
    """Decode an image file, turned upright as its EXIF data says.

    Args:
        path: a file that Pillow reads.
        channels: 1 for gray, 3 for red, green and blue.

    Shape:
        (channels, H, W), uint8

    Raises:
        ValueError: a number of channels that files do not have, or a file that is no image or
            is damaged; the message names it.
    """
    import numpy as np
    from PIL import Image, ImageOps

    if channels not in (1, 3):
        raise ValueError(f"image files give 1 or 3 channels, not {channels}")
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("L" if channels == 1 else "RGB")
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def resize_images(images: Tensor, size: int) -> Tensor:
    """Scale the shorter side to `size` (bilinear, antialiased) and cut out the middle square.

    Shape:
        (..., C, H, W) -> (..., C, size, size), of the same dtype
    """
    if tuple(images.shape[-2:]) == (size, size):
        return images
    from torchvision.transforms.v2 import functional

    return functional.center_crop(functional.resize(images, [size], antialias=True), [size])
