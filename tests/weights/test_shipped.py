"""The trained networks in the package work offline and match the accuracy in the catalog."""

import math

import pytest
import torch

import cnnarch
from cnnarch.training import datasets, evaluate, load_data
from cnnarch.weights import get_weights
from tests.oracles.catalog import SHIPPED

NAMES = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))
QUICK = ("lenet5", "convnet")  # networks that classify 10,000 images in two seconds


def test_the_shipped_networks_take_up_at_most_8_megabytes() -> None:
    assert {"lenet5", "convnet"} <= set(NAMES)
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 8e6


@pytest.mark.parametrize("name", NAMES)
def test_shipped_networks_have_class_names_and_a_training_command(name: str) -> None:
    model = cnnarch.get_model(name, weights="FASHION_MNIST")
    assert (model.num_classes, model.in_channels) == (10, 1)
    assert model.categories is not None
    assert model.categories[9] == "Ankle boot"
    assert model.preprocessing is not None
    entry = get_weights(name)["FASHION_MNIST"]
    assert entry.source == f"python -m benchmarks.zoo {name}"
    assert (SHIPPED / f"{name}.json").exists()


needs_fashion_mnist = pytest.mark.skipif(
    not datasets.DEBIAN["fashion_mnist"].exists(), reason="requires Debian's files"
)


def accuracy(name: str, images: int) -> tuple[float, float]:
    """Return the accuracy on the first `images` test images and the catalog's test accuracy."""
    model = cnnarch.get_model(name, weights="FASHION_MNIST")
    assert model.preprocessing is not None
    data = load_data("fashion_mnist", image_resolution=model.preprocessing.crop_size)
    test = data.test.subset(torch.arange(images)).prepared(model.preprocessing)
    result = evaluate(model, test)
    return result.top1, get_weights(name)["FASHION_MNIST"].metrics["acc@1"] / 100


@needs_fashion_mnist
@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES],
)
def test_accuracy_on_the_test_set_matches_the_catalog(name: str) -> None:
    found, expected = accuracy(name, 10_000)
    # Predictions for up to 3 of the 10,000 images may differ on another machine.
    assert found == pytest.approx(expected, abs=0.0003)


@needs_fashion_mnist
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_accuracy_on_500_images_is_statistically_consistent_with_the_catalog(name: str) -> None:
    """The standard deviation of the accuracy on n images is sqrt(p (1 - p) / n).

    For p = 93% and n = 500, it is 1.1 points. A random sample deviates by more than four
    standard deviations, 4.6 points, with probability 1 / 16,000.
    """
    found, expected = accuracy(name, 500)
    assert abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / 500)
