"""Checkpoints whose classifier was replaced by other layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

import cnnarch
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError, load

HEADS: dict[str, Callable[[int], nn.Module]] = {
    "dropout": lambda width: nn.Sequential(nn.Dropout(0.2), nn.Linear(width, 3)),
    "nested": lambda width: nn.Sequential(nn.Sequential(nn.Linear(width, 3)), nn.Identity()),
    "without_bias": lambda width: nn.Sequential(nn.Linear(width, 3, bias=False)),
    "hidden": lambda width: nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 3)),
    "norm": lambda width: nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 3)),
}
TAKEN = ("dropout", "nested", "without_bias")


def resnet18(head: Callable[[int], nn.Module]) -> Any:
    theirs = torchvision.models.resnet18()
    theirs.fc = head(512)
    calibrate(theirs, torch.randn(8, 3, 64, 64))
    return theirs


@pytest.mark.filterwarnings("ignore:.*it is zero")
@pytest.mark.parametrize("kind", TAKEN)
def test_a_single_linear_layer_in_a_head_is_the_classifier(kind: str) -> None:
    theirs = resnet18(HEADS[kind])
    model = cnnarch.resnet18(weights=theirs.state_dict()).eval()
    assert model.num_classes == 3
    images = example_images(model)
    with torch.no_grad():
        assert_close(model(images), theirs(images))


@pytest.mark.filterwarnings("ignore:.*it is zero")
@pytest.mark.parametrize("kind", TAKEN)
def test_our_own_replaced_classifier_loads(kind: str) -> None:
    source = cnnarch.resnet20_cifar()
    source.head.classifier = HEADS[kind](64)
    calibrate(source, example_images(source, 8))
    model = cnnarch.resnet20_cifar(weights=dict(source.state_dict())).eval()
    images = example_images(model)
    with torch.no_grad():
        assert_close(model(images), source(images))


@pytest.mark.parametrize("kind", ["hidden", "norm"])
def test_a_head_that_cannot_be_loaded_is_an_error_that_names_its_tensors(kind: str) -> None:
    state = resnet18(HEADS[kind]).state_dict()
    head = tuple(key for key in state if key.startswith("fc."))
    wrong = rf"(?s)unexpected: {head[0]}.*num_classes=0 can load everything but the classifier"
    with pytest.raises(WeightsError, match=wrong):
        cnnarch.resnet18(weights=state)
    with pytest.raises(WeightsError, match=wrong):
        load(cnnarch.resnet18(num_classes=3), state)
    assert cnnarch.resnet18(weights=state, num_classes=0).num_classes == 0
    assert load(cnnarch.resnet18(num_classes=0), state).dropped == head


def test_a_linear_layer_in_place_of_a_head_with_dropout_is_the_classifier() -> None:
    theirs: Any = torchvision.models.efficientnet_b0()
    theirs.classifier = nn.Linear(1280, 3)
    calibrate(theirs, torch.randn(8, 3, 64, 64))
    model = cnnarch.efficientnet_b0(weights=theirs.state_dict()).eval()
    assert model.num_classes == 3
    images = example_images(model)
    with torch.no_grad():
        assert_close(model(images), theirs(images))


def test_a_missing_bias_of_the_classifier_is_zero_and_reported() -> None:
    state = resnet18(HEADS["without_bias"]).state_dict()
    model = cnnarch.resnet18(num_classes=3)
    assert load(model, state).adapted == ("head.classifier.bias",)
    assert model.head.classifier.bias.tolist() == [0, 0, 0]
    with pytest.warns(UserWarning, match=r"no head\.classifier\.bias.*zero"):
        cnnarch.resnet18(weights=state)


def test_a_replaced_last_layer_of_a_larger_classifier_loads() -> None:
    theirs = torchvision.models.vgg11(dropout=0.0)
    theirs.classifier[6] = HEADS["dropout"](4096)
    model = cnnarch.vgg11(weights=theirs.state_dict()).eval()
    assert model.num_classes == 3
    theirs.classifier = nn.Linear(512 * 49, 3)
    with pytest.raises(WeightsError, match=r"missing: classifier\.0\.weight") as raised:
        cnnarch.vgg11(weights=theirs.state_dict())
    assert "num_classes=0" not in str(raised.value)  # the hidden layers would be missing


def test_a_checkpoint_without_a_classifier_builds_a_network_without_one() -> None:
    state = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if "fc" not in k}
    assert cnnarch.resnet18(weights=state).num_classes == 0
