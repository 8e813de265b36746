"""Loading weights into networks for small images."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import cnnarch
from cnnarch import ImageClassifier
from cnnarch.blocks import SamePad2d
from cnnarch.blocks._settings import settings_of
from cnnarch.weights.porting import layouts_of


def test_everything_except_a_smaller_first_convolution_is_loaded(
    builder: Callable[..., ImageClassifier],
) -> None:
    if "small_images" not in inspect.signature(builder).parameters:
        return
    standard, small = builder(), builder(small_images=True)
    weights, before = standard.state_dict(), {k: v.clone() for k, v in small.state_dict().items()}
    larger = tuple(k for k, v in weights.items() if v.shape != before[k].shape)
    assert all(k.startswith("stem.") and weights[k].shape[-1] >= 7 for k in larger)
    report = cnnarch.weights.load(small, weights)
    assert report.fresh == larger
    after = small.state_dict()
    assert all(torch.equal(after[k], before[k] if k in larger else weights[k]) for k in weights)


def test_names_in_other_libraries_are_the_same(builder: Callable[..., ImageClassifier]) -> None:
    """Layers that are absent or have no stride in the small network do not change the numbers."""
    if "small_images" not in inspect.signature(builder).parameters:
        return
    with torch.device("meta"):
        standard, small = builder(), builder(small_images=True)
    layers = dict(small.named_modules())
    for layout in layouts_of(standard):
        names, expected = (
            {pair.ours: pair.theirs for pair in layout.pairs(model) if pair.ours in layers}
            for model in (small, standard)
        )
        assert names == expected, layout.library


EQUAL_WIDTHS = {
    "mobilenet_v2": {"width": 0.35},
    "mobilenet_v3_large": {"width": 0.35},
    "mnasnet_a1": {"width": 0.35},
}
"""Options with which the first strided block has as many output channels as input channels."""


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in cnnarch.list_models()), *EQUAL_WIDTHS.items()],
)
def test_only_strides_and_pools_are_removed(name: str, options: dict[str, Any]) -> None:
    """In particular, no shortcut is added or removed, or the weights would have another meaning."""
    builder = cnnarch.get_model_builder(name)
    if "small_images" not in inspect.signature(builder).parameters:
        return
    with torch.device("meta"):
        standard, small = builder(**options), builder(**options, small_images=True)
    assert layers_of(small) == layers_of(standard)


def layers_of(model: ImageClassifier) -> dict[str, dict[str, Any]]:
    """Return the settings of the layers after the stem, except strides and the padding for them."""
    return {
        name: {k: v for k, v in settings_of(module).items() if k not in ("stride", "padding")}
        for name, module in model.stages.named_modules()
        if not isinstance(module, nn.MaxPool2d | SamePad2d)
    }


@pytest.mark.parametrize(("name", "last"), [("vgg11", 18), ("vgg11_bn", 25)])
def test_torchvisions_vggs_are_loaded_without_their_first_pools(name: str, last: int) -> None:
    theirs = torchvision.models.get_model(name, num_classes=2).state_dict()
    model = cnnarch.get_model(name, weights=theirs, small_images=True)
    assert torch.equal(model.stages[4][1].conv.weight, theirs[f"features.{last}.weight"])


def test_a_builder_warns_about_the_new_convolution_and_initializes_it() -> None:
    weights = cnnarch.resnet18().state_dict()
    with pytest.warns(
        UserWarning, match=r"stem.conv.weight is newly initialized: small_images=True"
    ):
        model = cnnarch.resnet18(weights=weights, small_images=True, num_classes=10)
    kernel = model.stem.conv.weight
    assert kernel.shape == (64, 3, 3, 3)
    assert kernel.std().item() == pytest.approx(
        (2 / (64 * 9)) ** 0.5, rel=0.1
    )  # He initialization, fan-out
    kept = model.state_dict()
    assert all(torch.equal(kept[k], weights[k]) for k in kept if k.startswith("stages."))
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_there_is_no_warning_if_every_tensor_shape_matches() -> None:
    weights = cnnarch.vgg11_bn(num_classes=2).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = cnnarch.vgg11_bn(weights=weights, small_images=True)
    assert model.num_classes == 2


def test_a_smaller_kernel_is_rejected_without_small_images() -> None:
    weights = dict(cnnarch.resnet18(small_images=True).state_dict())  # without metadata
    with pytest.raises(ValueError, match=r"stem.conv.weight \(64, 3, 3, 3\)"):
        cnnarch.resnet18(weights=weights)
