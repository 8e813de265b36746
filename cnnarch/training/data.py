"""Labelled images, and what turns their pixels into a network's input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from cnnarch.images import decode_image, read_together
from cnnarch.preprocessing import Preprocessing

__all__ = ["Batch", "FilePixels", "ImageData", "ImageSet", "measured", "to_channels"]

MEMORY_LIMIT = 2**31  # bytes of the pixels of files that are kept


def to_channels(pixels: Tensor, channels: int) -> Tensor:
    """Gray to three equal channels, or colour to gray: (N, C, H, W) -> (N, channels, H, W).

    Raises:
        ValueError: there is no such conversion.
    """
    have = pixels.shape[1]
    if have == channels:
        return pixels
    if have == 1:
        return pixels.expand(-1, channels, -1, -1)
    if (have, channels) == (3, 1):
        from torchvision.transforms.v2 import functional

        return functional.rgb_to_grayscale(pixels)
    raise ValueError(f"images of {have} channels cannot be shown to a network of {channels}")


def measured(pixels: Tensor, size: int, channels: int) -> Preprocessing:
    """Scaling to `size` and normalisation by mean and deviation of all values of `pixels`.

    Args:
        pixels: uint8, (N, C, H, W).
        size: side of the network's input.
        channels: of the network's input.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in to_channels(pixels, channels).unbind(1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(float(share @ values))
        std.append(float(share @ (values - mean[-1]).square()) ** 0.5)
    # A channel that never changes carries nothing: divided by 1 it stays at 0.
    std = [s if s > 1e-6 else 1.0 for s in std]
    return Preprocessing(size, size, mean=tuple(mean), std=tuple(std))


class Batch(NamedTuple):
    """Which images, and the seed of all that is drawn at random for them."""

    indices: Tensor
    seed: int = 0


class FilePixels:
    """Image files as squares, decoded when a batch asks for them or all at once.

    Args:
        paths: the files.
        channels: 1 or 3.
        preprocessing: how images are scaled; a square has the side of its `resize_size`.
    """

    def __init__(self, paths: Sequence[Path], channels: int, preprocessing: Preprocessing) -> None:
        self.paths = tuple(paths)
        self.channels = channels
        self.preprocessing = preprocessing
        self.kept: Tensor | None = None
        """The pixels of all files, where they are in memory."""

    @classmethod
    def read(
        cls, paths: Sequence[Path], channels: int, preprocessing: Preprocessing
    ) -> "FilePixels":
        """Decode all files at once where that takes at most 2 GiB, else as they are asked for."""
        files = cls(paths, channels, preprocessing)
        if len(paths) * channels * preprocessing.resize_size**2 <= MEMORY_LIMIT:
            files.kept = files[torch.arange(len(paths))]
        return files

    def __len__(self) -> int:
        """Number of files."""
        return len(self.paths)

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Pixels of these files: (N, channels, side, side), uint8."""
        if self.kept is not None:
            return self.kept[indices]
        return torch.stack(read_together([self.paths[i] for i in indices], self._square))

    def _square(self, path: Path) -> Tensor:
        pixels: Tensor = self._scaling(decode_image(path, self.channels))
        return pixels

    @cached_property
    def _scaling(self) -> Callable[[Tensor], Tensor]:
        """To a square; what `preprocessing` cuts off is cut later, from augmented images too."""
        wanted, none = self.preprocessing, (0.0,) * self.channels
        return replace(wanted, crop_size=wanted.resize_size, mean=none, std=none).crop()

    def subset(self, indices: Tensor) -> "FilePixels":
        """The files at `indices`, in that order."""
        some = FilePixels([self.paths[i] for i in indices], self.channels, self.preprocessing)
        some.kept = None if self.kept is None else self.kept[indices]
        return some

    def prepared(self, preprocessing: Preprocessing) -> "FilePixels":
        """The same files, read anew if a network wants them scaled otherwise."""
        old, new = self.preprocessing, preprocessing
        same = replace(new, crop_size=old.crop_size, mean=old.mean, std=old.std)
        if old == same:
            return self
        return FilePixels.read(self.paths, self.channels, preprocessing)


@dataclass(frozen=True, eq=False)
class ImageSet(Dataset[tuple[Tensor, Tensor, int]]):
    """Images of one split with their labels, read a batch at a time.

    Args:
        pixels: uint8, (N, C, H, W), in memory or in files.
        labels: a class index each, (N,).
        classes: names of the classes.
        preprocessing: from pixels to the network's input.

    Raises:
        ValueError: there are no images, not a label for each, or a label names no class.
    """

    pixels: Tensor | FilePixels
    labels: Tensor
    classes: tuple[str, ...]
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if not len(self.labels):
            raise ValueError("a set of images must have at least one image")
        if len(self.pixels) != len(self.labels):
            raise ValueError(f"there are {len(self.pixels)} images and {len(self.labels)} labels")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"labels of {len(self.classes)} classes must lie in 0 to {len(self.classes) - 1}, "
                f"got {low} to {high}"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """Pixels and labels of a batch, and its seed."""
        return self.pixels[batch.indices], self.labels[batch.indices], batch.seed

    def subset(self, indices: Tensor) -> "ImageSet":
        """The images at `indices`, in that order."""
        of = self.pixels
        pixels = of.subset(indices) if isinstance(of, FilePixels) else of[indices]
        return ImageSet(pixels, self.labels[indices], self.classes, self.preprocessing)

    def prepared(self, preprocessing: Preprocessing) -> "ImageSet":
        """The same images, for a network that wants its input so."""
        pixels = self.pixels
        if isinstance(pixels, FilePixels):
            pixels = pixels.prepared(preprocessing)
        return replace(self, pixels=pixels, preprocessing=preprocessing)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.preprocessing.mean)

    def inputs(self, indices: Tensor) -> Tensor:
        """What the network reads of the images at `indices`."""
        return self.prepare(self.pixels[indices])

    def prepare(self, pixels: Tensor) -> Tensor:
        """The network's input: (N, C, H, W) of uint8 -> (N, channels, size, size)."""
        result: Tensor = self._transform(to_channels(pixels, self.channels))
        return result

    @cached_property
    def _transform(self) -> Callable[[Tensor], Tensor]:
        return self.preprocessing.transform()


class ImageData(NamedTuple):
    """A data set: what is learned from, and what is held out to the end.

    Args:
        name: as `load_data` takes it.
        train: for training, and for validation where a part is held back.
        test: for the final figures only, never for a choice.
    """

    name: str
    train: ImageSet
    test: ImageSet

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.train.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """From pixels to the network's input."""
        return self.train.preprocessing

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.train.channels

    def prepared(self, preprocessing: Preprocessing) -> "ImageData":
        """The same images, for a network that wants its input so."""
        train, test = (images.prepared(preprocessing) for images in (self.train, self.test))
        return ImageData(self.name, train, test)

    def suited(self, model: nn.Module, image_resolution: int | None = None) -> "ImageData":
        """The same images as a network wants them.

        Args:
            model: its pretrained weights decide how images are scaled, if it has any, and its
                `min_input_size` how large they must be.
            image_resolution: side in pixels; None takes that of the weights, or the images'
                own, or the smallest that the network accepts if that is more.
        """
        least = getattr(model, "min_input_size", 1)
        own = getattr(model, "preprocessing", None) or self.preprocessing
        size = image_resolution or max(least, own.crop_size)
        if getattr(model, "fixed_input_size", False) and image_resolution is None:
            size = least
        # Weights over other channels were adapted to the images'; their mean and deviation are not.
        wanted = own if len(own.mean) == self.channels else self.preprocessing
        return self.prepared(replace(wanted, crop_size=size, resize_size=size))

    def hold_back(self, fraction: float, seed: int = 0) -> tuple[ImageSet, ImageSet | None]:
        """Training images without a random part, and that part to validate on.

        Args:
            fraction: share held back, in [0, 1); 0 gives all and None.
            seed: of the draw.

        Raises:
            ValueError: fraction out of range.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"validation must be in [0, 1), got {fraction!r}")
        count = round(len(self.train) * fraction)
        if not count:
            return self.train, None
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        return self.train.subset(order[count:]), self.train.subset(order[:count])
