"""The small trained networks in the package: that they work offline and reach what they claim."""

import pytest

import cnnarch
from cnnarch.training import datasets, evaluate, load_data
from cnnarch.weights import get_weights
from tests.oracles.catalog import SHIPPED

NAMES = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


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


@pytest.mark.skipif(not datasets.DEBIAN["fashion_mnist"].exists(), reason="needs Debian's files")
@pytest.mark.parametrize("name", NAMES)
def test_accuracy_on_the_real_test_set_is_what_the_catalog_says(name: str) -> None:
    model = cnnarch.get_model(name, weights="FASHION_MNIST")
    assert model.preprocessing is not None
    data = load_data("fashion_mnist", image_resolution=model.preprocessing.crop_size)
    figures = evaluate(model, data.prepared(model.preprocessing).test)
    claimed = get_weights(name)["FASHION_MNIST"].metrics["acc@1"]
    # 3 images of 10,000 may fall otherwise on another machine.
    assert 100 * figures.top1 == pytest.approx(claimed, abs=0.03)
