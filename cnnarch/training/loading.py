"""Load batches in an order that does not depend on the number of processes."""

import os
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cnnarch.training.augmentation import Augmentation
from cnnarch.training.data import ImageSet
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.optimization import batch_size_of
from cnnarch.training.recipe import Recipe
from cnnarch.training.signals import ignore_signals

MAX_WORKERS = 16
MEMORY_SHARE = 0.25  # of a GPU's free memory, for images that stay there


class SeededIndices(NamedTuple):
    """The indices of a batch and the seed for its augmentation."""

    indices: Tensor
    seed: int = 0


class Batches(Dataset[tuple[Tensor, Tensor, int]]):
    """The batches of an image set: pixels, labels and the seed for augmentation.

    Args:
        images: the images.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, batch: SeededIndices) -> tuple[Tensor, Tensor, int]:
        """Return the pixels and labels of a batch, and its seed."""
        labels = self.images.labels
        indices = batch.indices.to(labels.device, non_blocking=True)
        return self.images.pixels[indices], labels[indices], batch.seed


class BatchSampler(Sampler[SeededIndices]):
    """Samples this process's share of every batch.

    Shuffled batches are always full: leftover images, which vary by epoch, are skipped. (A
    last batch of one image would break BatchNorm.) So are leftover batches, if several batches
    form a step. The order depends only on the seed and the epoch. Process r of w receives
    images r, r + w, ... of each batch.

    Args:
        count: number of images.
        batch_size: number of images per batch, over all processes.
        shuffle: whether to shuffle the images in each epoch.
        frequencies: relative frequency of each image, which are then drawn with replacement; None
            uses each image at most once per epoch.
        batches_per_step: number of batches per optimizer step.
        seed: random seed for the order.
        rank: rank of this process.
        world_size: number of processes; for shuffled images, a divisor of `batch_size` and at most
            `count`.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        frequencies: Tensor | None = None,
        batches_per_step: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.count = count
        self.batch_size = min(batch_size, count - count % world_size) if shuffle else batch_size
        self.shuffle = shuffle
        self.frequencies = frequencies
        self.batches_per_step = batches_per_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        """The next epoch, counted from 0."""
        self.skip = 0
        """Number of batches to skip in that epoch."""

    def __len__(self) -> int:
        """Return the number of batches."""
        full, rest = divmod(self.count, self.batch_size)
        if not self.shuffle:
            return full + (rest > 0)
        return full - full % min(self.batches_per_step, full)

    def __iter__(self) -> Iterator[SeededIndices]:
        """Yield this process's share of each batch in the epoch, with the batch's seed."""
        order = torch.arange(self.count)
        if self.shuffle:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
            if self.frequencies is None:
                order = torch.randperm(self.count, generator=generator)
            else:
                order = draw(self.frequencies, generator)
        batches = list(enumerate(torch.split(order, self.batch_size)))
        for step, batch in batches[self.skip : len(self)]:
            share = batch[self.rank :: self.world_size]
            if len(share):
                yield SeededIndices(share, seed_of(self.seed, self.epoch, step))


def draw(frequencies: Tensor, generator: torch.Generator) -> Tensor:
    """Draw as many indices as there are frequencies, with replacement."""
    # torch.multinomial is limited to 2**24 categories.
    limits = frequencies.double().cumsum(0)
    points = torch.rand(len(limits), generator=generator, dtype=torch.float64) * limits[-1]
    return torch.searchsorted(limits, points, right=True).clamp(max=len(limits) - 1)


def seed_of(*numbers: int) -> int:
    """Combine numbers into a seed that changes if any of them changes."""
    result = 0
    for number in numbers:
        result = (result * 1_000_003 + number + 1) % 2**63
    return result


class ImageLoader:
    """Loads the batches of an image set to a device, and augments and preprocesses them there.

    Args:
        images: the images; those in memory stay on a GPU if they fit there.
        sampler: determines the batches.
        device: the device.
        num_workers: number of worker processes that load batches, as in `Machine`.
        channels_last: whether inputs use the channels-last memory format.
        augmentation: the augmentation, for training images.
    """

    def __init__(
        self,
        images: ImageSet,
        sampler: BatchSampler,
        device: torch.device,
        *,
        num_workers: int | None = None,
        channels_last: bool = False,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.images = images
        self.sampler = sampler
        self.device = device
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.augmentation = augmentation
        self._running: Generator[tuple[Tensor, Tensor], None, None] | None = None
        kept = keep_on_device(images, device)
        workers = default_workers(images, device) if num_workers is None else num_workers
        self.loader = _loader(kept, sampler, workers if kept is images else 0)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.sampler)

    def epoch(self, number: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each batch's inputs, (N, C, size, size), and class indices or probabilities.

        All random numbers in a training step depend on the batch's seed. A resumed run therefore
        draws the same numbers as an uninterrupted one.

        Args:
            number: the epoch, counted from 0.
            skip: number of batches to skip.
        """
        self.sampler.epoch, self.sampler.skip = number, skip
        self._running = self._batches()
        return self._running

    def close(self) -> None:
        """End the worker processes.

        An exception's traceback would keep them alive. They ignore SIGTERM, by which Python ends
        them at exit, so it would wait for them forever.
        """
        if self._running:
            self._running.close()
        del self.loader

    def _batches(self) -> Generator[tuple[Tensor, Tensor], None, None]:
        for pixels, labels, seed in self.loader:
            yield self._prepare(
                pixels.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
                seed,
            )

    def _prepare(self, pixels: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        augmentation = self.augmentation
        if augmentation is None:
            inputs = self.images.prepare(pixels)
        else:
            torch.manual_seed(seed_of(seed, augmentation.rank))
            inputs = self.images.prepare(augmentation.pixels(pixels, seed))
            inputs, labels = augmentation.inputs(inputs, labels)
        return inputs.contiguous(memory_format=self.memory_format), labels


def keep_on_device(images: ImageSet, device: torch.device) -> ImageSet:
    """Return images in memory with their pixels on a GPU if they fit there, or the same images."""
    pixels = images.pixels.decoded if isinstance(images.pixels, FilePixels) else images.pixels
    if device.type != "cuda" or pixels is None:
        return images
    free, _ = torch.cuda.mem_get_info(device)
    if pixels.nbytes > MEMORY_SHARE * free:
        return images
    return replace(images, pixels=pixels.to(device), labels=images.labels.to(device))


def default_workers(images: ImageSet, device: torch.device) -> int:
    """Return the number of worker processes that decode files while a GPU computes."""
    is_in_memory = not isinstance(images.pixels, FilePixels) or images.pixels.decoded is not None
    if is_in_memory or device.type == "cpu":
        return 0
    return min(MAX_WORKERS, max(1, (os.cpu_count() or 1) - 1))


def _loader(
    images: ImageSet, sampler: BatchSampler, num_workers: int
) -> DataLoader[tuple[Tensor, Tensor, int]]:
    return DataLoader(
        Batches(images),
        sampler=sampler,
        batch_size=None,  # the sampler returns whole batches
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available() and images.labels.device.type == "cpu",
    )


def evaluation_loader(
    images: ImageSet, batch_size: int, device: torch.device, num_workers: int | None = None
) -> ImageLoader:
    """Return a loader that yields all images in order."""
    sampler = BatchSampler(len(images), batch_size)
    return ImageLoader(images, sampler, device, num_workers=num_workers)


class StageLoaders:
    """Creates the loaders of a stage: shuffled and augmented images, and images to evaluate on.

    Args:
        fabric: the device, and the processes that share each batch.
        recipe: determines the batch size, augmentation and seed.
        stage: number of the recipe's stage; each stage uses a different image order.
        images: number of training images.
        num_workers: number of worker processes that load batches.
    """

    def __init__(
        self, fabric: Fabric, recipe: Recipe, stage: int, images: int, num_workers: int | None
    ) -> None:
        self.fabric = fabric
        self.recipe = recipe
        self.seed = seed_of(recipe.seed, stage)
        self.batch_size = batch_size_of(recipe, images, fabric.world_size)
        self.num_workers = num_workers

    def training(self, images: ImageSet) -> ImageLoader:
        """Return a loader that yields full batches in shuffled order."""
        place = self.fabric.global_rank, self.fabric.world_size
        frequencies = _frequencies(images) if self.recipe.balanced_sampling else None
        return self._loader(
            images, Augmentation(self.recipe, len(images.classes), *place), frequencies
        )

    def evaluation(self, images: ImageSet) -> ImageLoader:
        """Return a loader that yields this process's share of all images, in order."""
        return self._loader(images)

    def _loader(
        self,
        images: ImageSet,
        augmentation: Augmentation | None = None,
        frequencies: Tensor | None = None,
    ) -> ImageLoader:
        sampler = BatchSampler(
            len(images),
            self.batch_size,
            shuffle=augmentation is not None,
            frequencies=frequencies,
            batches_per_step=self.recipe.accumulate_grad_batches,
            seed=self.seed,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        return ImageLoader(
            images,
            sampler,
            self.fabric.device,
            num_workers=self.num_workers,
            channels_last=self.recipe.channels_last is not False,
            augmentation=augmentation,
        )


def _frequencies(images: ImageSet) -> Tensor:
    """Return a frequency for each image that makes all classes equally likely."""
    return 1 / images.labels.bincount()[images.labels]
