"""Load data for Lightning, in an order that does not depend on the number of processes."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from cnnarch.training.augmentation import Augmentation
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.optimization import batch_size_of
from cnnarch.training.recipe import Recipe
from cnnarch.training.signals import ignore_signals


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
        return self.images.pixels[batch.indices], self.images.labels[batch.indices], batch.seed


class Loader(DataLoader[tuple[Tensor, Tensor, int]]):
    """A data loader whose position within the epoch is saved in Lightning's checkpoints."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.trained: Callable[[], int] = lambda: 0
        """Return the number of batches trained on in this epoch; more may have been loaded."""

    def state_dict(self) -> dict[str, int]:
        """Return the position within the epoch; 0 at the end of the epoch."""
        return {"trained": self.trained() % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Skip the batches that have already been trained on."""
        assert isinstance(self.sampler, BatchSampler)
        self.sampler.skip = state["trained"]


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
        world_size: number of processes.

    Raises:
        ValueError: `batch_size` is not a multiple of `world_size`, or there are fewer images than
            processes.
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
        if world_size > 1 and count < world_size:  # a process without images blocks the others
            raise ValueError(f"{count} images cannot be divided among {world_size} processes")
        if shuffle and batch_size % world_size:
            raise ValueError(
                f"batch_size must be a multiple of {world_size}, the number of processes, "
                f"got {batch_size}"
            )
        self.count = count
        self.batch_size = min(batch_size, count - count % world_size) if shuffle else batch_size
        self.shuffle = shuffle
        self.frequencies = frequencies
        self.batches_per_step = batches_per_step
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skip = 0  # number of batches to skip in the next epoch of a resumed run

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch; called by Lightning."""
        self.epoch = epoch

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
        skip, self.skip = self.skip, 0
        batches = list(enumerate(torch.split(order, self.batch_size)))
        for step, batch in batches[skip : len(self)]:
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


def evaluation_loader(images: ImageSet, batch_size: int, num_workers: int = 0) -> Loader:
    """Return a loader that yields all images in order, in batches of pixels, labels and a seed."""
    return _loader(images, BatchSampler(len(images), batch_size), num_workers)


def _loader(images: ImageSet, sampler: BatchSampler, num_workers: int) -> Loader:
    return Loader(
        Batches(images),
        sampler=sampler,
        batch_size=None,  # the sampler returns whole batches
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        worker_init_fn=ignore_signals,
        pin_memory=torch.cuda.is_available(),
    )


class ImageDataModule(LightningDataModule):
    """Images for a recipe: shuffled, augmented and preprocessed batch by batch.

    Args:
        data: the data set.
        recipe: determines the batch size, augmentation, validation split and seed.
        stage: number of the recipe's stage; each stage uses a different image order.
        num_workers: number of worker processes that load batches; 0 loads them in the training
            process, which is best for images in memory.
        channels_last: whether network inputs use the channels-last memory format.
    """

    def __init__(
        self,
        data: ImageData,
        recipe: Recipe,
        *,
        stage: int = 1,
        num_workers: int = 0,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.stage = stage
        self.num_workers = num_workers
        self.channels_last = channels_last
        self.train_images, validation = data.hold_back(recipe.validation, recipe.seed)
        watched = {"val": validation, "test": data.test if recipe.test_each_epoch else None}
        self.watched = {name: images for name, images in watched.items() if images is not None}
        """Image sets to evaluate after each epoch, keyed by the prefix of their metrics."""

    def train_dataloader(self) -> Loader:
        """Return a loader that yields full batches in shuffled order."""
        loader = self._loader(self.train_images, shuffle=True)
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        loader.trained = lambda: progress.current.ready
        return loader

    def val_dataloader(self) -> list[Loader]:
        """Return a loader for each image set in `watched`."""
        return [self._loader(images) for images in self.watched.values()]

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor, int], _loader: int
    ) -> tuple[Tensor, Tensor]:
        """Convert pixels, labels and a seed to inputs and targets on the training device.

        All random numbers in a training step depend on the batch's seed. A resumed run therefore
        draws the same numbers as an uninterrupted one.
        """
        pixels, labels, seed = batch
        trainer = self.trainer
        assert trainer is not None
        if trainer.training:
            augmentation = self._augmentation(trainer)
            torch.manual_seed(seed_of(seed, trainer.global_rank))
            inputs = self.train_images.prepare(augmentation.pixels(pixels, seed))
            inputs, labels = augmentation.inputs(inputs, labels)
        else:
            inputs = self.train_images.prepare(pixels)
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        return inputs.contiguous(memory_format=order), labels

    def _augmentation(self, trainer: Trainer) -> Augmentation:
        classes = len(self.train_images.classes)
        return Augmentation(self.recipe, classes, trainer.global_rank, trainer.world_size)

    def _frequencies(self) -> Tensor | None:
        """Return a frequency for each training image that makes all classes equally likely."""
        labels = self.train_images.labels
        return 1 / labels.bincount()[labels] if self.recipe.balanced_sampling else None

    def _loader(self, images: ImageSet, shuffle: bool = False) -> Loader:
        trainer = self.trainer
        assert trainer is not None
        sampler = BatchSampler(
            len(images),
            batch_size_of(self.recipe, len(self.train_images), trainer.world_size),
            shuffle=shuffle,
            frequencies=self._frequencies() if shuffle else None,
            batches_per_step=self.recipe.accumulate_grad_batches,
            seed=seed_of(self.recipe.seed, self.stage),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        sampler.set_epoch(trainer.current_epoch)
        return _loader(images, sampler, self.num_workers)
