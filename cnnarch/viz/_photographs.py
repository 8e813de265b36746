"""Read photographs for figures: files, their contents or Pillow images."""

from collections.abc import Sequence
from io import BytesIO
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor

from cnnarch.images import decode_image, find_images
from cnnarch.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL.Image import Image

Photograph: TypeAlias = "str | PathLike[str] | bytes | Image"
"""A path to a file or a folder, the contents of a file, or a Pillow image."""


def is_photographs(images: Any) -> "TypeGuard[Photograph | Sequence[Photograph]]":
    """Return whether the images are a photograph, or a list or tuple that begins with one."""
    from PIL.Image import Image

    if isinstance(images, list | tuple):
        return not images or is_photographs(images[0])
    return isinstance(images, str | PathLike | bytes | Image)


def read_photographs(
    images: "Photograph | Sequence[Photograph]", count: int, preprocessing: Preprocessing | None
) -> Tensor:
    """Return network inputs for photographs; of a folder, only the first images are read.

    Args:
        images: one or more photographs.
        count: number of images that the figure can show.
        preprocessing: converts a photograph to the network's input.

    Shape:
        (N, C, H, W)

    Raises:
        ValueError: there is no preprocessing, a photograph cannot be read, or there are more
            photographs than the figure can show.
        TypeError: one of the images is not a photograph.
        FileNotFoundError: a file or folder does not exist.
    """
    each = images if isinstance(images, list | tuple) else [images]
    if not each:
        raise ValueError("there are no images: the list is empty")
    if len(each) > count:
        raise ValueError(f"got {len(each)} images, but the figure shows at most {count}")
    if preprocessing is None:
        raise ValueError(
            "the network has no preprocessing; pass one, such as "
            "preprocessing=cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
        )
    sources: list[Any] = []
    for i, image in enumerate(each):
        if not is_photographs(image) or isinstance(image, list | tuple):
            raise TypeError(f"image {i} is a {type(image).__name__}, expected a file or an image")
        sources += find_images([image]) if isinstance(image, str | PathLike) else [image]
    transform, channels = preprocessing.transform(), len(preprocessing.mean)
    pixels = [
        decode_image(
            BytesIO(source) if isinstance(source, bytes) else source,
            channels,
            None if isinstance(source, PathLike) else f"image {i}",
        )
        for i, source in enumerate(sources[:count])
    ]
    return torch.stack([transform(image) for image in pixels])
