"""The library's own conversions of a network survive saving and loading."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.dilation import dilate
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError

CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "dilated": lambda model: dilate(model, 8),
    "group": lambda model: cnnarch.convert_norm(model, "group"),
    "frozen": lambda model: cnnarch.convert_norm(model, "frozen"),
    "sync": lambda model: cnnarch.convert_norm(model, "sync"),
    "dilated_group": lambda model: dilate(cnnarch.convert_norm(model, "group"), 16),
    "classes": lambda model: model.reset_classifier(7),
    "no_classifier": lambda model: model.reset_classifier(0),
    "frozen_stages": lambda model: cnnarch.freeze(model, upto=2),
    "inplace": lambda model: cnnarch.set_inplace(model),
}


@pytest.fixture(params=CONVERSIONS)
def converted(request: pytest.FixtureRequest) -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.resnet18(num_classes=5)
    calibrate(model, example_images(model, 8))
    CONVERSIONS[request.param](model)
    return model.eval()


def check_same(found: cnnarch.ImageClassifier, expected: cnnarch.ImageClassifier) -> None:
    images = example_images(expected)
    with torch.no_grad():
        assert_close(found.eval()(images), expected(images), 1e-6)
    assert found.feature_info == expected.feature_info
    assert found.conversions == expected.conversions


def test_a_converted_network_is_rebuilt(converted: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    converted.save_pretrained(tmp_path)
    check_same(cnnarch.from_pretrained(tmp_path), converted)
    check_same(cnnarch.from_pretrained(tmp_path / "model.safetensors"), converted)


def test_its_state_dict_builds_the_same_network(
    converted: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    torch.save(converted.state_dict(), tmp_path / "net.pth")
    check_same(cnnarch.resnet18(weights=tmp_path / "net.pth"), converted)


def test_a_second_save_contains_the_same_config(tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=5)
    dilate(model, 8)
    model.save_pretrained(tmp_path / "one")
    cnnarch.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / name / "config.json").read_text() for name in ("one", "two"))
    assert one == two


def test_a_standing_network_without_the_dilation_rejects_the_state_dict() -> None:
    model = cnnarch.resnet18(num_classes=5)
    dilate(model, 8)
    with pytest.raises(RuntimeError, match="output stride 8, but this one is not dilated"):
        cnnarch.resnet18(num_classes=5).load_state_dict(model.state_dict())
    with pytest.raises(WeightsError, match="output stride 8, but this one is not dilated"):
        cnnarch.weights.load(cnnarch.resnet18(num_classes=5), model.state_dict())
    other = cnnarch.resnet18(num_classes=5)
    dilate(other, 8)
    other.load_state_dict(model.state_dict())
    frozen = cnnarch.convert_norm(cnnarch.resnet18(num_classes=5), "frozen")
    cnnarch.resnet18(num_classes=5).load_state_dict(frozen.state_dict())


def test_a_backbone_records_its_conversions() -> None:
    backbone = cnnarch.get_backbone("resnet18", output_stride=8)
    with pytest.raises(RuntimeError, match="not dilated"):
        cnnarch.get_backbone("resnet18").load_state_dict(backbone.state_dict())
    cnnarch.get_backbone("resnet18", output_stride=8).load_state_dict(backbone.state_dict())


CHANGES: dict[str, Callable[[Any], Any]] = {
    "pool": lambda m: setattr(m.head, "pool", nn.AdaptiveMaxPool2d(1)),
    "activation": lambda m: setattr(m.stem, "act", nn.SiLU()),
    "stride": lambda m: setattr(m.stages[1][0].branch.conv1.conv, "stride", (1, 1)),
    "eps": lambda m: setattr(m.stem.norm, "eps", 0.1),
    "spectral_norm": lambda m: nn.utils.parametrizations.spectral_norm(m.stem.conv),
    "pruning": lambda m: nn.utils.prune.l1_unstructured(m.stem.conv, "weight", 0.5),  # type: ignore[attr-defined]
    "parameter": lambda m: m.stem.register_parameter("scale", nn.Parameter(torch.ones(1))),
    "part_of_the_norms": lambda m: cnnarch.convert_norm(m.stages[0], "group"),
    "padding_mode": lambda m: setattr(m.stem.conv, "padding_mode", "reflect"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_other_change_is_refused_by_naming_the_module(change: str, tmp_path: Path) -> None:
    import torch.nn.utils.prune  # noqa: F401 (not imported by torch)

    model = cnnarch.resnet18(num_classes=5)
    CHANGES[change](model)
    with pytest.raises(WeightsError, match=r"layers were changed.*(stem|head|stages)\."):
        model.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()


def test_class_names_belong_to_the_classifier_layer(tmp_path: Path) -> None:
    model = cnnarch.resnet20_cifar()
    model.categories = tuple("abcdefghij")
    model.save_pretrained(tmp_path)
    assert cnnarch.from_pretrained(tmp_path).categories == model.categories
    model.head.classifier = nn.Linear(64, 10)
    assert model.categories is None
    model.save_pretrained(tmp_path)
    assert cnnarch.from_pretrained(tmp_path).categories is None


def test_a_backbone_loads_a_classifiers_checkpoint() -> None:
    model = cnnarch.resnet20_cifar()
    backbone = cnnarch.get_backbone("resnet20_cifar")
    report = cnnarch.weights.load(backbone, model.state_dict())
    assert report.dropped == ("head.classifier.weight", "head.classifier.bias")
    assert torch.equal(backbone.stem.conv.weight, model.stem.conv.weight)


def test_a_network_with_another_head_has_a_state_dict() -> None:
    model = cnnarch.resnet20_cifar()
    model.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))  # type: ignore[assignment]
    state = model.state_dict()
    assert "head.2.weight" in state
    model.load_state_dict(state)


def test_an_output_stride_other_than_the_checkpoints_is_rejected() -> None:
    model = cnnarch.resnet18()
    dilate(model, 8)
    state = model.state_dict()
    assert cnnarch.get_backbone("resnet18", weights=state, output_stride=8).strides[-1] == 8
    with pytest.raises(ValueError, match="output_stride=16, but the checkpoint's network has 8"):
        cnnarch.get_backbone("resnet18", weights=state, output_stride=16)
