"""Tests for layer names."""

import pytest
from torch import nn

import cnnarch
from cnnarch.contract.layers import layer_name, layer_path, stage_layers
from tests.small_forms import Build


def test_every_stage_has_its_feature_info_name_and_a_module_path(builder: Build) -> None:
    model = builder()
    names = [row.name for row in model.feature_info]
    paths = ["stem", *(f"stages.{i}" for i in range(len(model.stages)))]
    assert stage_layers(model) == dict(zip(names, paths, strict=True))
    assert [layer_path(model, name) for name in names] == paths
    assert [layer_name(model, path) for path in paths] == names
    assert model.stage_indices(names) == model.stage_indices(paths) == list(range(len(names)))


def test_module_paths_are_accepted() -> None:
    model = cnnarch.resnet18()
    for path in ("stem", "stages.2", "stages.2.0", "head.classifier"):
        assert layer_path(model, path) == path
    assert layer_name(model, "stages.2.0") == "stages.2.0"


def test_networks_without_stages_have_only_module_paths() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    assert stage_layers(model) == {}
    assert layer_path(model, "1") == "1"
    with pytest.raises(ValueError, match="no layer 'conv4_x'; available: 0, 1"):
        layer_path(model, "conv4_x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv9_x", r"no layer 'conv9_x'; did you mean .*'conv.*\(stages: conv1, conv2_x"),
        ("stages.9", r"no layer 'stages\.9'; did you mean 'stages\..*stages: conv1, conv2_x"),
        ("zzz", "no layer 'zzz'; available: conv1, conv2_x, conv3_x, conv4_x, conv5_x"),
        ("", "no layer ''; available: conv1"),
    ],
)
def test_an_unknown_layer_is_reported_with_suggestions_and_stages(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer_path(cnnarch.resnet18(), name)
