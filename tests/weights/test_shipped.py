"""The small trained networks in the package: that they work offline and reach what they claim."""

import math

import pytest
import torch

import cnnarch
from cnnarch.training import datasets, evaluate, load_data
from cnnarch.weights import get_weights
from tests.oracles.catalog import SHIPPED

NAMES = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))
QUICK = ("lenet5", "convnet")  # classify 10,000 images in two seconds


def test_there_are_some_and_they_are_small() -> None:
    assert {"lenet5", "convnet"} <= set(NAMES)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_they_name_their_classes_and_their_training(name: str) -> None:
    model = cnnarch.get_model(name, weights="FASHION_MNIST")
    assert (model.num_classes, model.in_channels) == (10, 1)
    assert model.categories is not None
    assert model.categories[9] == "Ankle boot"
    assert model.preprocessing is not None
    entry = get_weights(name)["FASHION_MNIST"]
    assert entry.source == f"python -m benchmarks.zoo {name}"
    assert (SHIPPED / f"{name}.json").exists()


needs_fashion_mnist = pytest.mark.skipif(
    not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files"
)


def accuracy(name: str, images: int) -> tuple[float, float]:
    """The share that is right of the first test images, and what the catalog says of all."""
    model = cnnarch.get_model(name, weights="FASHION_MNIST")
    assert model.preprocessing is not None
    data = load_data("fashion_mnist", image_resolution=model.preprocessing.crop_size)
    test = data.test.subset(torch.arange(images)).prepared(model.preprocessing)
    figures = evaluate(model, test)
    return figures.top1, get_weights(name)["FASHION_MNIST"].metrics["acc@1"] / 100


@needs_fashion_mnist
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_accuracy_on_the_real_test_set_is_what_the_catalog_says(name: str) -> None:
    found, claimed = accuracy(name, 10_000)
    # 3 images of 10,000 may fall otherwise on another machine.
    assert found == pytest.approx(claimed, abs=0.0003)


@needs_fashion_mnist
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_accuracy_on_500_images_is_within_chance_of_the_catalogs(name: str) -> None:
    """Of n images of which each is right with probability p, the share has a spread of its own.

    Its standard deviation is sqrt(p (1 - p) / n): 1.1 points for p = 93% and n = 500. Four of
    them, 4.6 points, are passed by chance once in 16,000 choices of images.
    """
    found, claimed = accuracy(name, 500)
    assert abs(found - claimed) <= 4 * math.sqrt(claimed * (1 - claimed) / 500)
