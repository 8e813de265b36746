"""A data set that a network can learn in a second, and small networks."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.training import ImageData, ImageSet
from cnnarch.weights import Preprocessing
from tests.forks import Forks

CLASSES = ("left", "right", "top", "bottom")


def bright_sides(count: int, seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return noise images and labels; the bright half of each image determines its class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (count, 1, size, size), generator=generator)
    labels = torch.arange(count) % len(CLASSES)
    half = size // 2
    pixels[labels == 0, :, :, :half] += 120
    pixels[labels == 1, :, :, half:] += 120
    pixels[labels == 2, :, :half] += 120
    pixels[labels == 3, :, half:] += 120
    return pixels.to(torch.uint8), labels


class Peaks(nn.Module):
    """A network that is correct on all images after exactly eight steps, and on none otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        half = x.shape[-1] // 2
        sides = (x[..., :half], x[..., half:], x[..., :half, :], x[..., half:, :])
        brightness = torch.stack([side.mean((1, 2, 3)) for side in sides], 1)
        return self.scale * brightness * (1 if self.steps == 8 else -1)


def sides() -> ImageData:
    """Return training and test images of the four classes."""
    preprocessing = Preprocessing(32, 32, mean=(0.4,), std=(0.3,))
    train, test = (
        ImageSet(*bright_sides(count, seed), CLASSES, preprocessing)
        for count, seed in ((96, 0), (40, 1))
    )
    return ImageData("sides", train, test)


@pytest.fixture
def data() -> ImageData:
    return sides()


@pytest.fixture
def lenet() -> cnnarch.ImageClassifier:
    return cnnarch.lenet5(num_classes=len(CLASSES))


BEFORE_TRAINING = """
import docstring_parser, jsonargparse, rich.progress, safetensors.torch
import sklearn.datasets, sklearn.metrics, torchmetrics
import cnnarch.cli.training, cnnarch.training.run

cnnarch.training.run.draw_pictures = lambda *_: []  # they take longer than training
"""


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """A process whose forks can train without reimporting the libraries."""
    forks = Forks(tmp_path_factory.mktemp("forks"), BEFORE_TRAINING)
    yield forks
    forks.close()
