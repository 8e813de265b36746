"""Options record how a network was built; two of them track changes to its layers."""

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import cnnarch
from cnnarch.blocks import Residual
from cnnarch.facts.builders import BUILDERS, option_parameters
from cnnarch.models.efficientnet_lite import EfficientNetLite
from tests.small_forms import small_forms

DEPTHS = (1, 1, 1, 1)


def on_meta(name: str, **options: Any) -> cnnarch.ImageClassifier:
    with torch.device("meta"):
        return cnnarch.get_model(name, **options)


def test_every_network_class_has_a_small_form() -> None:
    """Without a small form, the contract tests would skip the class's networks."""
    with torch.device("meta"):
        classes = {type(build()) for build in small_forms().values()}
    networks = {build.__annotations__["return"] for build in BUILDERS.values()}
    assert classes <= networks
    for network in networks:
        place = f"SMALL_FORMS in tests/models/test_{network.__module__.rpartition('.')[2]}.py"
        assert network in classes, f"{place} has no form for {network.__name__}"


@pytest.mark.parametrize("name", cnnarch.list_models())
def test_every_builder_records_every_option_with_its_effective_value(name: str) -> None:
    model = on_meta(name)
    parameters = option_parameters(type(model))
    assert list(model.options) == list(parameters)
    assert None not in model.options.values()
    defaults = {k: p.default for k, p in parameters.items() if p.default is not None}
    assert model.options.items() >= defaults.items()


def test_given_options_are_recorded_along_with_the_defaults() -> None:
    assert on_meta("resnet50").options == {
        "num_classes": 1000,
        "in_channels": 3,
        "dropout": 0.0,
        "drop_path": 0.0,
        "zero_init_residual": False,
        "small_images": False,
        "stride_in_1x1": False,
    }
    options = on_meta("resnet50", stride_in_1x1=True, num_classes=7).options
    assert (options["stride_in_1x1"], options["num_classes"]) == (True, 7)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("alexnet", "groups", 2),
        ("alexnet_owt", "groups", 1),
        ("efficientnet_b0", "dropout", 0.2),
        ("efficientnet_b7", "dropout", 0.5),
        ("se_resnet50", "stride_in_1x1", True),
        ("se_resnet18", "stride_in_1x1", False),  # its blocks contain no 1x1 convolution
        ("se_resnext50_32x4d", "stride_in_1x1", False),
    ],
)
def test_a_default_of_none_is_recorded_as_its_effective_value(
    name: str, option: str, value: object
) -> None:
    assert on_meta(name).options[option] == value
    assert on_meta(name, **{option: None}).options[option] == value
    assert on_meta(name, **{option: value}).options[option] == value


def test_a_network_instantiated_from_its_class_records_options_but_no_builder() -> None:
    model = cnnarch.ResNet(Residual, DEPTHS, small_images=True)
    assert model.builder is None
    assert model.options["small_images"] is True
    assert model.options["stride_in_1x1"] is False


class UserNetwork(cnnarch.ResNet):
    """A user-defined class that adds options and sets some of its base class's options."""

    def __init__(self, width: int = 2, *, deep: bool = False, dropout: float = 0.1) -> None:
        depths = (2, 2, 2, 2) if deep else DEPTHS
        super().__init__(Residual, depths, num_classes=width, small_images=True, dropout=dropout)


class UnchangedNetwork(cnnarch.ResNet):
    """A user-defined class with the same arguments as its base class."""


def test_a_subclass_records_its_own_options_and_those_it_passes_on() -> None:
    options = UserNetwork().options
    assert options.pop("deep") is False
    assert options == {
        "num_classes": 2,
        "in_channels": 3,
        "dropout": 0.1,
        "drop_path": 0.0,
        "zero_init_residual": False,
        "small_images": True,
        "stride_in_1x1": False,
    }
    unchanged = UnchangedNetwork(Residual, DEPTHS, dropout=0.5)
    assert unchanged.options == cnnarch.ResNet(Residual, DEPTHS, dropout=0.5).options


def test_signatures_are_unchanged() -> None:
    assert list(inspect.signature(UnchangedNetwork).parameters) == list(
        inspect.signature(cnnarch.ResNet).parameters
    )
    assert "padding" in inspect.signature(EfficientNetLite).parameters


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_do_not_share_options(copy_of: Any) -> None:
    model = cnnarch.lenet5(activation="relu")
    copied = copy_of(model)
    assert (copied.builder, copied.options) == ("lenet5", model.options)
    copied.reset_classifier(3)
    assert (copied.options["num_classes"], model.options["num_classes"]) == (3, 10)


def test_num_classes_tracks_changes_to_the_classifier() -> None:
    model = cnnarch.resnet18()
    model.reset_classifier(5)
    assert model.options["num_classes"] == model.num_classes == 5
    model.head.classifier = nn.Linear(512, 7)
    assert model.options["num_classes"] == model.num_classes == 7
    model.head.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 3))
    assert model.num_classes == 3
    model.head.classifier = nn.Identity()
    assert model.options["num_classes"] == model.num_classes == 0


@pytest.mark.parametrize("name", ["lenet5_1998", "nin_cifar", "vgg11", "mixer_s32"])
def test_every_kind_of_classifier_reports_its_number_of_classes(name: str) -> None:
    model = on_meta(name, num_classes=6)
    assert model.num_classes == 6
    assert on_meta(name, num_classes=0).num_classes == 0


def test_in_channels_tracks_changes_to_the_first_convolution() -> None:
    model = cnnarch.resnet18(num_classes=2)
    model.stem.conv = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    assert model.options["in_channels"] == model.in_channels == 1
    assert model.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 2)


def test_changing_the_returned_dictionary_does_not_change_the_network() -> None:
    model = cnnarch.lenet5()
    model.options["activation"] = "relu"
    assert model.options["activation"] == "tanh"
