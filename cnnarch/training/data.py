"""Labeled images, and the preprocessing that turns their pixels into a network's input."""

import hashlib
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnarch.facts.builders import BUILDERS
from cnnarch.preprocessing import Preprocessing, convert_channels
from cnnarch.registry import get_card
from cnnarch.training.file_pixels import FilePixels


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


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images of one split with their labels: a data set for any PyTorch data loader.

    Each item is a network's input, (channels, size, size), and a class index. Training reads
    whole batches instead, and augments them before preprocessing.

    Args:
        pixels: uint8, (N, C, H, W), in memory or in files.
        labels: class indices, (N,).
        classes: class names.
        preprocessing: turns pixels into the network's input.
        default_size: whether nobody chose the input size, so that each network uses its own.

    Raises:
        ValueError: there are no images, the numbers of images and labels differ, or a label is
            not a valid class index.
    """

    pixels: Tensor | FilePixels
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    default_size: bool = False

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

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the network's input for one image, and its label.

        Raises:
            IndexError: there is no such image.
            TypeError: the index is not an integer.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return several items; data loaders call this method once for each batch."""
        numbers = torch.tensor([_check_index(index, len(self)) for index in indices])
        inputs, labels = self.inputs(numbers), self.labels[numbers].tolist()
        return list(zip(inputs, labels, strict=True))

    def subset(self, indices: Tensor) -> "ImageSet":
        """Return the images at `indices`, in that order, or those for which a mask is true."""
        indices = torch.arange(len(self))[indices]
        pixels = self.pixels
        chosen = pixels.subset(indices) if isinstance(pixels, FilePixels) else pixels[indices]
        return replace(self, pixels=chosen, labels=self.labels[indices])

    def prepared(self, preprocessing: Preprocessing) -> "ImageSet":
        """Return the same images with different preprocessing."""
        pixels = self.pixels
        if isinstance(pixels, FilePixels):
            pixels = pixels.prepared(preprocessing)
        return replace(self, pixels=pixels, preprocessing=preprocessing, default_size=False)

    def adapt_to(self, model: nn.Module, image_resolution: int | None = None) -> "ImageSet":
        """Return the same images with preprocessing that suits a network.

        Args:
            model: its pretrained weights, if any, determine the preprocessing. Its
                `min_input_size` is the minimum input size.
            image_resolution: input size in pixels. None uses the size specified by the weights. If
                there is none, files of a default size use the network's default input size, and
                other images their own size, or the network's minimum size if that is larger.
        """
        minimum = getattr(model, "min_input_size", 1)
        found = getattr(model, "preprocessing", None) or self.preprocessing
        size = image_resolution or max(minimum, self._native_size(model) or found.crop_size)
        if getattr(model, "fixed_input_size", False) and image_resolution is None:
            size = minimum
        # The weights' mean cannot be used if the number of input channels was changed.
        found = found if len(found.mean) == self.channels else self.preprocessing
        adapted = self.prepared(replace(found, crop_size=size, resize_size=size))
        return replace(adapted, default_size=self.default_size and image_resolution is None)

    def _native_size(self, model: nn.Module) -> int | None:
        """Return the network's default input size if the size of the files is up to it."""
        is_open = self.default_size and isinstance(self.pixels, FilePixels)
        is_open = is_open and getattr(model, "preprocessing", None) is None
        builder = getattr(model, "builder", None)
        return get_card(builder).input_size[-1] if is_open and builder in BUILDERS else None

    def matched_to(self, model: nn.Module) -> "ImageSet":
        """Return the same images, normalized and interpolated as a network's weights require.

        The input size changes only if nobody chose it.
        """
        if self.default_size:
            return self.adapt_to(model)
        old, found = self.preprocessing, getattr(model, "preprocessing", None)
        if found is None or len(found.mean) != self.channels:
            return self
        new = replace(found, crop_size=old.crop_size, resize_size=old.resize_size)
        return self if new == old else self.prepared(new)

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


def _check_index(index: Any, count: int) -> int:
    try:
        number = operator.index(index)
    except TypeError as error:
        raise TypeError(
            f"an image set's index must be an integer, got {index!r}; use subset(indices) for "
            "several images"
        ) from error
    if not -count <= number < count:
        raise IndexError(f"there are {count} images, but none at index {number}")
    return number


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
        return self._map(lambda images: images.prepared(preprocessing))

    def adapt_to(self, model: nn.Module, image_resolution: int | None = None) -> "ImageData":
        """Return the same images with preprocessing that suits a network.

        Args:
            model: its pretrained weights, if any, determine the preprocessing. Its
                `min_input_size` is the minimum input size.
            image_resolution: input size in pixels. None uses the size specified by the weights,
                otherwise the image size, or the network's minimum size if that is larger.
        """
        return self._map(lambda images: images.adapt_to(model, image_resolution))

    def matched_to(self, model: nn.Module, image_resolution: int | None = None) -> "ImageData":
        """Return the same images, normalized and interpolated as a network's weights require.

        Args:
            model: the network.
            image_resolution: input size in pixels; None keeps the size that was chosen, if any,
                and otherwise uses the network's.
        """
        if image_resolution is not None:
            return self.adapt_to(model, image_resolution)
        return self._map(lambda images: images.matched_to(model))

    def _map(self, change: Callable[[ImageSet], ImageSet]) -> "ImageData":
        """Return the data set with every split changed."""
        validation = None if self.validation is None else change(self.validation)
        return ImageData(self.name, change(self.train), change(self.test), validation)

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
            held += members[: _count_held(len(members), fraction)]
        if not held:
            return self.train, None
        chosen = set(held)
        kept = [i for i in order if i not in chosen]
        return self.train.subset(torch.tensor(kept)), self.train.subset(torch.tensor(held))

    def training_size(self, fraction: float) -> int:
        """Return the number of images that `hold_back` leaves for training."""
        if not fraction or self.validation is not None:
            return len(self.train)
        counts = torch.bincount(self.train.labels).tolist()
        return sum(count - _count_held(count, fraction) for count in counts if count)

    def _random_order(self, seed: int) -> list[int]:
        pixels = self.train.pixels
        if isinstance(pixels, FilePixels):
            keys = [f"{seed}/{name}".encode(errors="surrogateescape") for name in pixels.names]
            return sorted(range(len(keys)), key=lambda i: hashlib.sha256(keys[i]).digest())
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.train), generator=generator).tolist()


def _count_held(count: int, fraction: float) -> int:
    """Return how many images of a class are held out; at least one is kept for training."""
    return min(share_of(count, fraction), count - 1)


def share_of(count: int, fraction: float, minimum: int = 0) -> int:
    """Return a fraction of a number of images, rounded to the nearest integer."""
    return max(minimum, math.floor(count * fraction + 0.5))
