"""A data set that a network learns in a second, and a network of that speed."""

import pytest
import torch
from torch import Tensor

import cnnarch
from cnnarch.training import ImageData, ImageSet
from cnnarch.weights import Preprocessing

CLASSES = ("left", "right", "top", "bottom")


def bright_sides(count: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Noise with one bright half: which half is the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (count, 1, size, size), generator=generator)
    labels = torch.arange(count) % len(CLASSES)
    half = size // 2
    pixels[labels == 0, :, :, :half] += 120
    pixels[labels == 1, :, :, half:] += 120
    pixels[labels == 2, :, :half] += 120
    pixels[labels == 3, :, half:] += 120
    return pixels.to(torch.uint8), labels


@pytest.fixture
def data() -> ImageData:
    preprocessing = Preprocessing(32, 32, mean=(0.4,), std=(0.3,))
    train, test = (
        ImageSet(*bright_sides(count, seed), CLASSES, preprocessing)
        for count, seed in ((96, 0), (40, 1))
    )
    return ImageData("sides", train, test)


@pytest.fixture
def lenet() -> cnnarch.ImageClassifier:
    return cnnarch.lenet5(num_classes=len(CLASSES))
