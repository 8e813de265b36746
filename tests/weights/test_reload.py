"""A state dict describes the network that it was saved from: a reload computes the same logits."""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cnnarch
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError, load

# Networks with options that their tensors do not show.
HIDDEN: dict[str, Callable[[], cnnarch.ImageClassifier]] = {
    "efficientnet_lite0": lambda: cnnarch.efficientnet_lite0(
        num_classes=3, padding="same", norm_eps=0.01
    ),
    "mobilenet_v1": lambda: cnnarch.mobilenet_v1(
        num_classes=3, padding="same", activation="relu6", norm_eps=0.01
    ),
    "lenet5": lambda: cnnarch.lenet5(activation="relu", pool="max"),
    "resnet50": lambda: cnnarch.resnet50(num_classes=3, stride_in_1x1=True),
    "se_resnet50": lambda: cnnarch.se_resnet50(num_classes=3, ceil_pool=False),
}


@pytest.fixture(params=HIDDEN)
def network(request: pytest.FixtureRequest) -> cnnarch.ImageClassifier:
    model = HIDDEN[request.param]()
    calibrate(model, example_images(model, 8))
    return model


def builder_of(model: cnnarch.ImageClassifier) -> Callable[..., cnnarch.ImageClassifier]:
    assert model.builder is not None
    return cnnarch.get_model_builder(model.builder)


def check_same(found: nn.Module, expected: cnnarch.ImageClassifier) -> None:
    images = example_images(expected)
    with torch.no_grad():
        assert_close(found.eval()(images), expected(images), 1e-6)


def without_metadata(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict())


def test_a_saved_state_dict_builds_the_same_network(
    network: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    torch.save(network.state_dict(), tmp_path / "net.pth")
    again = builder_of(network)(weights=tmp_path / "net.pth")
    assert again.options == network.options
    check_same(again, network)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, OrderedDict.copy], ids=lambda f: f.__qualname__
)
def test_a_state_dict_in_memory_builds_the_same_network(
    network: cnnarch.ImageClassifier, copied: Callable[[Any], Any]
) -> None:
    state = copied(network.state_dict())
    if not hasattr(state, "_metadata"):  # OrderedDict.copy drops it
        with pytest.warns(UserWarning, match="does not record"):
            builder_of(network)(weights=state)
        return
    check_same(builder_of(network)(weights=state), network)


def test_options_survive_a_wrapper_and_its_prefix(
    network: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    class Task(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network

    torch.save({"epoch": 3, "state_dict": Task().state_dict()}, tmp_path / "net.ckpt")
    check_same(builder_of(network)(weights=tmp_path / "net.ckpt"), network)


def test_a_backbone_records_the_options_of_its_network(network: cnnarch.ImageClassifier) -> None:
    state = cnnarch.Backbone(network).state_dict()
    other = builder_of(network)()
    if network.options.get("padding", "symmetric") != "symmetric":
        with pytest.raises(RuntimeError, match=r"padding='same'.*padding='symmetric'"):
            cnnarch.Backbone(other).load_state_dict(state)
    same = copy.deepcopy(network)
    cnnarch.Backbone(same).load_state_dict(state)


def test_a_standing_network_adopts_eps() -> None:
    network = cnnarch.efficientnet_lite0(num_classes=3, norm_eps=0.01)
    calibrate(network, example_images(network, 8))
    other = cnnarch.efficientnet_lite0(num_classes=3)
    other.load_state_dict(network.state_dict())
    assert other.options["norm_eps"] == 0.01
    check_same(other, network)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mobilenet_v1", {"padding": "same"}, "padding='same'.*padding='symmetric'"),
        ("lenet5", {"activation": "relu"}, "activation='relu'.*activation='tanh'"),
        ("resnet50", {"stride_in_1x1": True}, "stride_in_1x1=True.*stride_in_1x1=False"),
    ],
)
def test_a_standing_network_rejects_other_options(
    name: str, options: Mapping[str, Any], message: str
) -> None:
    state = cnnarch.get_model(name, **options).state_dict()
    model = cnnarch.get_model(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match=message):
        model.load_state_dict(state)
    nested = nn.Sequential(cnnarch.get_model(name, **options)).state_dict()
    with pytest.raises(RuntimeError, match=message):
        nn.Sequential(model).load_state_dict(nested)
    with pytest.raises(WeightsError, match=message.partition(".*")[0]):
        load(model, state)
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_state_dict_of_another_network_with_the_same_tensors_is_rejected() -> None:
    state = cnnarch.vgg11_lrn(width=0.1).state_dict()
    with pytest.raises(WeightsError, match="vgg11_lrn, not of vgg11"):
        cnnarch.vgg11(weights=state, width=0.1)
    with pytest.raises(RuntimeError, match="vgg11_lrn, not of vgg11"):
        cnnarch.vgg11(width=0.1).load_state_dict(state)


def test_a_state_dict_without_metadata_warns_every_time(
    network: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    build = builder_of(network)
    save_file(without_metadata(network), tmp_path / "net.safetensors")
    for _ in range(2):
        with pytest.warns(UserWarning, match="does not record"):
            build(weights=without_metadata(network))
        with pytest.warns(UserWarning, match="does not record"):
            build(weights=tmp_path / "net.safetensors")
        with pytest.warns(UserWarning, match="does not record"):
            load(build(), without_metadata(build()))
        with pytest.warns(UserWarning, match="does not record"):
            build().load_state_dict(without_metadata(build()))


def test_passing_the_options_avoids_the_warning(network: cnnarch.ImageClassifier) -> None:
    build = builder_of(network)
    state = without_metadata(network)
    options = {k: v for k, v in network.options.items() if k not in ("num_classes", "in_channels")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = build(weights=state, **options)
        again.load_state_dict(state)
    check_same(again, network)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet_bc_40_12_cifar", "mixer_s32"])
def test_networks_without_hidden_options_do_not_warn(name: str) -> None:
    model = cnnarch.get_model(name, num_classes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cnnarch.get_model(name, weights=without_metadata(model))
        model.load_state_dict(without_metadata(model))


def test_the_metadata_adds_no_keys_and_loads_without_pickles(tmp_path: Path) -> None:
    model = cnnarch.efficientnet_lite0(num_classes=3)
    names = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    assert model.state_dict().keys() == names
    torch.save(model.state_dict(), tmp_path / "net.pth")
    state = torch.load(tmp_path / "net.pth", weights_only=True)
    assert state._metadata[""]["cnnarch"]["options"]["padding"] == "symmetric"
