"""Batches of network inputs, and the images that they come from."""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cnnarch.images import Unreadable
from cnnarch.preprocessing import Preprocessing

NO_PREPROCESSING = (
    "the network has no preprocessing; pass one, such as "
    "preprocessing=cnnarch.weights.Preprocessing(crop_size=224, resize_size=256)"
)


class Origin(NamedTuple):
    """The images from which features were computed.

    Args:
        size: number of images, including unreadable ones.
        names: names of the readable images.
        contents: hashes of their contents, if the images are known by them.
        labels: labels from a loader or an image set.
        unreadable: files that cannot be read.
    """

    size: int = 0
    names: Sequence[str] = ()
    contents: Sequence[str] = ()
    labels: Sequence[int] = ()
    unreadable: Sequence[Unreadable] = ()


def join(origins: Iterable[Origin]) -> Origin:
    """Concatenate the origins of consecutive batches."""
    sizes, *lists = zip(Origin(), *origins, strict=True)
    names, contents, labels, unreadable = map(list, map(chain.from_iterable, lists))
    return Origin(sum(sizes), names, contents, labels, [Unreadable(*each) for each in unreadable])


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


class Preparation:
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
