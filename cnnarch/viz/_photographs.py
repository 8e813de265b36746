"""Read photographs for figures: files, their contents, Pillow images or pixels."""

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import decode_image
from cnnarch.inputs import is_image_set, name_images
from cnnarch.preprocessing import Preprocessing

if TYPE_CHECKING:
    from cnnarch.images import ImageLike


def is_photographs(images: Any) -> bool:
    """Return whether the images are photographs, and not a data set or network inputs."""
    if isinstance(images, np.ndarray | Tensor):
        return "float" not in str(images.dtype)
    return not is_image_set(images)


def read_photographs(
    images: "ImageLike | Iterable[ImageLike]", count: int, preprocessing: Preprocessing | None
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
    if isinstance(images, list | tuple) and len(images) > count:
        raise ValueError(f"got {len(images)} images, but the figure shows at most {count}")
    if preprocessing is None:
        raise ValueError(
            "the network has no preprocessing; pass one, such as "
            "preprocessing=cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
        )
    transform, channels = preprocessing.transform(), len(preprocessing.mean)
    found = [
        transform(decode_image(image, channels, name))
        for name, image in islice(name_images(images), count)
    ]
    if not found:
        raise ValueError("there are no images: the list is empty")
    return torch.stack(found)
