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
from cnnarch.preprocessing import Preprocessing
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


def test_tensors_of_another_library_are_an_error_without_a_warning() -> None:
    """The warning would be about options of a state dict that does not fit anyway."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match=r"cnnarch\.weights\.load converts"):
            cnnarch.mobilenet_v1(width=0.25).load_state_dict({"conv1.weight": torch.zeros(1)})


def test_passing_the_options_avoids_the_warning(network: cnnarch.ImageClassifier) -> None:
    build = builder_of(network)
    state = without_metadata(network)
    options = {k: v for k, v in network.options.items() if k not in ("num_classes", "in_channels")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = build(weights=state, **options)
        again.load_state_dict(state)
    check_same(again, network)


@pytest.mark.parametrize("name", ["resnet18", "nin_cifar", "densenet_bc_40_12_cifar", "mixer_s32"])
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


def test_a_users_module_checks_the_options_of_the_network_inside(
    network: cnnarch.ImageClassifier,
) -> None:
    class Task(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.scale = nn.Parameter(torch.ones(1))

    state = Task(network).state_dict()
    target = Task(builder_of(network)(num_classes=network.num_classes))
    changed = {k: v for k, v in network.options.items() if target.model.options[k] != v}
    if changed.keys() - {"norm_eps"}:
        before = copy.deepcopy(target.state_dict())
        with pytest.raises(WeightsError, match="build it with"):
            load(target, state)
        assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())
    with pytest.warns(UserWarning, match="does not record"):
        load(target, dict(state))
    same = Task(copy.deepcopy(network))
    load(same, state)
    check_same(same.model, network)


def test_a_users_module_adopts_eps() -> None:
    network = cnnarch.efficientnet_lite0(num_classes=3, norm_eps=0.01)
    calibrate(network, example_images(network, 8))
    target = nn.Sequential(cnnarch.efficientnet_lite0(num_classes=3))
    report = load(target, nn.Sequential(network).state_dict())
    assert report.changed_options == {"0.norm_eps": 0.01}
    check_same(target, network)


def test_each_network_in_a_users_module_adopts_its_own_eps() -> None:
    def make(first: float, second: float) -> nn.ModuleDict:
        networks = {"a": cnnarch.efficientnet_b0(norm_eps=first)}
        networks["b"] = cnnarch.efficientnet_b0(norm_eps=second)
        return nn.ModuleDict({**networks, "neck": nn.BatchNorm2d(8)})

    target: Any = make(1e-5, 1e-5)
    load(target, make(1e-3, 1e-4).state_dict())
    assert (target["a"].options["norm_eps"], target["b"].options["norm_eps"]) == (1e-3, 1e-4)
    assert target["neck"].eps == 1e-5


def test_the_description_of_the_matching_network_is_used() -> None:
    networks = {
        "student": cnnarch.efficientnet_lite0(num_classes=3, norm_eps=0.01),
        "teacher": cnnarch.efficientnet_lite1(num_classes=3, norm_eps=0.02),
    }
    state = nn.ModuleDict(networks).state_dict()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*does not record")
        warnings.filterwarnings("ignore", message=".*were loaded")
        assert cnnarch.efficientnet_lite0(weights=state).options["norm_eps"] == 0.01
        assert cnnarch.efficientnet_lite1(weights=state).options["norm_eps"] == 0.02


def test_eps_that_was_set_by_hand_is_recorded() -> None:
    network = cnnarch.efficientnet_b0(num_classes=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.02
    assert network.options["norm_eps"] == 0.02
    calibrate(network, example_images(network, 8))
    check_same(cnnarch.efficientnet_b0(weights=network.state_dict()), network)


SMALL = {"efficientnet_b0": {}, "mobilenet_v1": {"width": 0.25}, "vgg11_bn": {"width": 0.25}}


@pytest.mark.parametrize("name", SMALL)
def test_small_images_are_recorded_where_no_tensor_shows_them(name: str) -> None:
    def build(**options: Any) -> cnnarch.ImageClassifier:
        return cnnarch.get_model(name, num_classes=3, **SMALL[name], **options)

    small = build(small_images=True)
    calibrate(small, example_images(small, 8))
    message = "small_images=True, but this one has small_images=False"
    with pytest.raises(RuntimeError, match=message):
        build().load_state_dict(small.state_dict())
    with pytest.raises(WeightsError, match=message):
        load(build(), small.state_dict())
    with pytest.warns(UserWarning, match="does not record .*small_images"):
        build().load_state_dict(dict(small.state_dict()))
    for library in ("torchvision", "timm", "pytorchcv"):
        with pytest.raises(WeightsError):  # small_images, or the library lacks the network
            cnnarch.weights.export(small, library)
    build(small_images=True).load_state_dict(build().state_dict())  # the caller asked for it
    check_same(cnnarch.get_model(name, weights=small.state_dict()), small)


def test_a_smaller_output_stride_is_required_to_reload_a_dilated_network() -> None:
    networks = {stride: cnnarch.resnet18(num_classes=3) for stride in (8, 16)}
    for stride, network in networks.items():
        cnnarch.dilation.dilate(network, stride)
    with pytest.raises(RuntimeError, match="output stride 8, but this one has 16"):
        networks[16].load_state_dict(networks[8].state_dict())
    networks[8].load_state_dict(networks[16].state_dict())


def edit_pool(model: Any) -> None:
    model.stages[0].pool = nn.AvgPool2d(3, 2, 1)


def edit_activation(model: Any) -> None:
    model.stem.act = nn.GELU()


def edit_stride(model: Any) -> None:
    model.stem.conv.stride = (1, 1)


def edit_eps(model: Any) -> None:
    model.stages[1][0].branch.conv1.norm.eps = 0.1


EDITS = {
    "stages.0.pool is AvgPool2d": edit_pool,
    "stem.act is GELU": edit_activation,
    "stem.conv is Conv2d": edit_stride,
    "stages.1.0.branch.conv1.norm is BatchNorm2d": edit_eps,
}


@pytest.mark.parametrize("change", EDITS)
def test_layers_that_were_changed_by_hand_are_named_on_reload(change: str, tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=3)
    EDITS[change](model)
    torch.save(model.state_dict(), tmp_path / "net.pth")
    message = f"layers were changed.*{change}"
    with pytest.warns(UserWarning, match=message):
        cnnarch.resnet18(weights=tmp_path / "net.pth")
    other = cnnarch.resnet18(num_classes=3)
    with pytest.warns(UserWarning, match=message):
        other.load_state_dict(model.state_dict())
    with pytest.warns(UserWarning, match=message):
        load(other, model.state_dict())
    EDITS[change](other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(model.state_dict())
        load(other, model.state_dict())


def test_changes_that_do_not_alter_the_logits_are_not_named() -> None:
    model = cnnarch.resnet18(num_classes=3)
    cnnarch.freeze(model, "conv3_x")
    model.stages[3] = torch.compile(model.stages[3], backend="eager")  # type: ignore[assignment]
    cnnarch.finetuning.set_inplace(model, False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    model.head.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(512, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cnnarch.resnet18(weights=model.state_dict())


def test_preprocessing_and_class_names_are_recorded(tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=2)
    model.preprocessing = Preprocessing(64, 80, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    model.categories = ["cat", "dog"]
    torch.save(model.state_dict(), tmp_path / "net.pth")
    standing = cnnarch.resnet18(num_classes=2)
    standing.preprocessing, standing.categories = Preprocessing(32, 32), ["a", "b"]
    for other in (cnnarch.resnet18(weights=tmp_path / "net.pth"), standing):
        other.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
        assert other.preprocessing == model.preprocessing
        assert other.categories is not None
        assert list(other.categories) == ["cat", "dog"]
    smaller = cnnarch.resnet18(weights=tmp_path / "net.pth", num_classes=5)
    assert smaller.categories is None
    assert smaller.preprocessing == model.preprocessing


def test_a_network_without_names_clears_those_of_another() -> None:
    model = cnnarch.resnet18(num_classes=2)
    model.preprocessing, model.categories = Preprocessing(64, 80), ["cat", "dog"]
    model.load_state_dict(cnnarch.resnet18(num_classes=2).state_dict())
    assert model.categories is None
    assert model.preprocessing is None


def test_settings_that_a_pool_does_not_print_are_compared(tmp_path: Path) -> None:
    model: Any = cnnarch.bn_inception(num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = not module.count_include_pad
    with pytest.raises(WeightsError, match=r"AvgPool2d.*count_include_pad=(True|False)"):
        model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="layers were changed.*count_include_pad"):
        cnnarch.bn_inception(weights=model.state_dict())


def test_frozen_norms_in_a_part_are_no_change(tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=3)
    calibrate(model, example_images(model, 8))
    cnnarch.convert_norm(model.stem, "frozen")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_same(cnnarch.resnet18(weights=model.state_dict()), model)
        model.save_pretrained(tmp_path)
    check_same(cnnarch.from_pretrained(tmp_path), model)
