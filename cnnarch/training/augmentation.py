"""Augment each training image randomly, processing the whole batch at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad
from torchvision.transforms import v2

from cnnarch.training.recipe import Recipe

RATIO = 3 / 4, 4 / 3  # aspect ratios of random resized crops, as in the GoogLeNet paper


@dataclass(frozen=True)
class Augmentation:
    """Crops, flips, RandAugment, erasing, mixup and CutMix.

    Each process draws random numbers for the whole batch and uses only those for its own images.
    Crops and flips therefore do not depend on the number of processes.

    Args:
        recipe: determines the augmentations and their strengths.
        num_classes: number of classes in mixed targets.
        rank: rank of this process.
        world_size: number of processes that share a batch.
    """

    recipe: Recipe
    num_classes: int
    rank: int = 0
    world_size: int = 1

    def pixels(self, images: Tensor, seed: int) -> Tensor:
        """Augment uint8 images of any size, with shape (N, C, H, W)."""
        recipe = self.recipe
        draw = self._random_numbers(len(images), seed)
        if recipe.resized_crop:
            images = random_resized_crop(images, recipe.resized_crop, draw)
        if recipe.crop_padding or recipe.flip:
            images = random_shift_and_flip(images, recipe.crop_padding, recipe.flip, draw)
        if recipe.randaugment:
            augment = v2.RandAugment(num_ops=2, magnitude=recipe.randaugment)
            images = torch.stack([augment(image) for image in images])
        return images

    def inputs(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a network's inputs and targets; mixed targets have shape (N, num_classes)."""
        recipe = self.recipe
        if recipe.erasing:
            erase = v2.RandomErasing(recipe.erasing)
            images = torch.stack([erase(image) for image in images])
        mixes = []
        if recipe.mixup:
            mixes.append(v2.MixUp(alpha=recipe.mixup, num_classes=self.num_classes))
        if recipe.cutmix:
            mixes.append(v2.CutMix(alpha=recipe.cutmix, num_classes=self.num_classes))
        if mixes:
            images, labels = v2.RandomChoice(mixes)(images, labels)
        return images, labels

    def _random_numbers(self, count: int, seed: int) -> Callable[[], Tensor]:
        generator = torch.Generator().manual_seed(seed)
        total = count * self.world_size
        return lambda: torch.rand(total, generator=generator)[self.rank :: self.world_size]


def random_shift_and_flip(
    images: Tensor, padding: int, flip: bool, draw: Callable[[], Tensor]
) -> Tensor:
    """Shift images by up to `padding` pixels, filling with black, and flip half of them.

    Args:
        images: (N, C, H, W).
        padding: maximum shift in pixels.
        flip: whether to flip images horizontally.
        draw: returns N random numbers in [0, 1).
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = (
        (draw() * (2 * padding + 1)).long().to(device, non_blocking=True)[:, None] for _ in range(2)
    )
    rows = torch.arange(height, device=device) + top
    columns = torch.arange(width, device=device) + left
    if flip:
        mirrored = (draw() < 0.5).to(device, non_blocking=True)[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = pad(images, [padding] * 4)
    index = torch.arange(count, device=device)[:, None, None, None]
    channel = torch.arange(channels, device=device)[:, None, None]
    return padded[index, channel, rows[:, None, :, None], columns[:, None, None, :]]


def random_resized_crop(images: Tensor, min_area: float, draw: Callable[[], Tensor]) -> Tensor:
    """Crop random rectangles and resize them to the original image size.

    Args:
        images: uint8, (N, C, H, W).
        min_area: minimum fraction of the image area to keep.
        draw: returns N random numbers in [0, 1).
    """
    area = min_area + (1 - min_area) * draw()
    low, high = (torch.tensor(r).log() for r in RATIO)
    ratio = (low + (high - low) * draw()).exp()
    wide, tall = ((area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1))
    # affine_grid uses coordinates from -1 to 1.
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide, tall
    theta[:, 0, 2], theta[:, 1, 2] = (2 * draw() - 1) * (1 - wide), (2 * draw() - 1) * (1 - tall)
    grid = affine_grid(
        theta.to(images.device, non_blocking=True), list(images.shape), align_corners=False
    )
    cut = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return cut.round().to(images.dtype)
