"""Names from torchvision and timm lead to those of cnnarch."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torchvision
from torch import nn

import cnnarch
from cnnarch.facts.suggestions import OTHER_LIBRARIES
from cnnarch.testing import check_classifier

CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "pretrained": (lambda: cnnarch.resnet18(pretrained=True), 'pass weights="DEFAULT"'),  # type: ignore[call-arg]
    "features_only": (
        lambda: cnnarch.get_model("resnet18", features_only=True),
        "use cnnarch.get_backbone",
    ),
    "out_indices": (
        lambda: cnnarch.get_backbone("resnet18", out_indices=(1, 2)),
        "pass stages= to cnnarch.get_backbone",
    ),
    "filter": (lambda: cnnarch.list_models(filter="res*"), "pass pattern="),
    "in_chans": (lambda: cnnarch.resnet18(in_chans=1), "pass in_channels="),  # type: ignore[call-arg]
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_another_library_leads_to_ours(name: str) -> None:
    call, hint = CALLS[name]
    with pytest.raises(TypeError, match=hint):
        call()


def test_create_model_leads_to_get_model() -> None:
    with pytest.raises(AttributeError, match=r"'create_model'; use cnnarch\.get_model"):
        cnnarch.create_model("resnet18")  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"'nothing'$"):
        _ = cnnarch.nothing  # type: ignore[attr-defined]


def test_no_option_of_ours_is_mistaken_for_another_librarys() -> None:
    builders = map(cnnarch.get_model_builder, cnnarch.list_models())
    options = {name for build in builders for name in inspect.signature(build).parameters}
    assert not options & OTHER_LIBRARIES.keys()


def test_get_classifier_returns_the_last_layer() -> None:
    model = cnnarch.resnet20_cifar(num_classes=5)
    assert model.get_classifier() is model.head.classifier
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)


def test_networks_of_other_libraries_are_named() -> None:
    theirs = torchvision.models.resnet18()
    with pytest.raises(AssertionError, match=r"need a cnnarch\.ImageClassifier, got ResNet"):
        check_classifier(theirs)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"diagram needs a cnnarch network.*got ResNet"):
        cnnarch.viz.diagram(theirs, (3, 64, 64))  # type: ignore[arg-type]
