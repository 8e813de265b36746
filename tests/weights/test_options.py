"""Options in checkpoints: required options, free options and networks that cannot be saved."""

import inspect
import json
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import cnnarch
from cnnarch.blocks import Residual
from cnnarch.facts.builders import option_parameters
from cnnarch.facts.options import FREE, METADATA_KEY
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError, load
from cnnarch.weights.rebuilding import check_rebuilds
from tests.small_forms import Build, small_forms

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def saved(folder: Path, model: cnnarch.ImageClassifier) -> Path:
    model.save_pretrained(folder)
    return folder


def test_the_config_lists_all_options_and_the_card_only_nondefault_ones(tmp_path: Path) -> None:
    cnnarch.lenet5(activation="relu").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["options"] == {
        "num_classes": 10,
        "in_channels": 1,
        "activation": "relu",
        "pool": "avg",
        "image_size": 32,
    }
    assert "Options: `activation='relu'`\n" in (tmp_path / "README.md").read_text()


# Free options


def test_saved_weights_load_into_a_network_for_small_images(tmp_path: Path) -> None:
    folder = saved(tmp_path, cnnarch.resnet18(num_classes=4))
    with pytest.warns(
        UserWarning, match=r"stem.conv.weight is newly initialized: small_images=True"
    ):
        model = cnnarch.resnet18(weights=folder, small_images=True, dropout=0.2)
    assert (model.num_classes, model.options["dropout"]) == (4, 0.2)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_saved_weights_of_a_network_for_small_images_load(tmp_path: Path) -> None:
    small = cnnarch.resnet18(num_classes=4, small_images=True)
    folder = saved(tmp_path, small)
    for options in ({}, {"small_images": True}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = cnnarch.resnet18(weights=folder, **options)  # type: ignore[arg-type]
        assert torch.equal(model.stem.conv.weight, small.stem.conv.weight)
    with pytest.raises(WeightsError, match=r"stem.conv.weight \(64, 3, 3, 3\)"):
        cnnarch.resnet18(weights=folder, small_images=False)


def test_saved_weights_load_into_lenet_for_a_different_image_size(tmp_path: Path) -> None:
    folder = saved(tmp_path, cnnarch.lenet5())
    assert cnnarch.lenet5(weights=folder, image_size=28).min_input_size == 28
    assert load(cnnarch.lenet5(image_size=28), folder).fresh == ()


def test_saved_weights_load_with_different_drop_rates(tmp_path: Path) -> None:
    folder = saved(tmp_path, cnnarch.efficientnet_lite0(num_classes=2))
    model = cnnarch.efficientnet_lite0(weights=folder, dropout=0.0, drop_path=0.0)
    assert (model.options["dropout"], model.options["drop_path"]) == (0.0, 0.0)
    load(cnnarch.efficientnet_lite0(num_classes=2, dropout=0.5), folder)


def test_saved_weights_bring_their_norm_momentum_unless_it_is_given(tmp_path: Path) -> None:
    """Like drop rates, it only matters in training, so the logits never depend on it."""
    model = cnnarch.mnasnet0_5(num_classes=2, norm_momentum=0.1).eval()
    folder = saved(tmp_path, model)
    existing = cnnarch.mnasnet0_5(num_classes=2, norm_momentum=0.5)
    load(existing, folder)
    copied = cnnarch.mnasnet0_5(num_classes=2, norm_momentum=0.6)
    copied.load_state_dict(model.state_dict())
    for again, momentum in (
        (cnnarch.from_pretrained(folder), 0.1),
        (cnnarch.mnasnet0_5(weights=folder), 0.1),
        (cnnarch.mnasnet0_5(weights=model.state_dict()), 0.1),
        (cnnarch.mnasnet0_5(weights=folder, norm_momentum=0.4), 0.4),
        (existing, 0.5),
        (copied, 0.6),
    ):
        assert again.options["norm_momentum"] == momentum
        norms = [m for m in again.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {norm.momentum for norm in norms} == {momentum}
        with torch.no_grad():
            assert torch.equal(again.eval()(X), model(X))


# Required options


def another(option: inspect.Parameter, value: Any) -> Any:
    if isinstance(value, str):
        return next(choice for choice in get_args(option.annotation) if choice != value)
    return not value if isinstance(value, bool) else type(value)(value / 2)


def changes_outputs(build: Build, option: str) -> bool:
    """Return whether a different value of the option changes the shapes or the logits."""
    ours = build().eval()
    try:
        value = another(option_parameters(type(ours))[option], ours.options[option])
        theirs = build(**{option: value}).eval()
    except ValueError:  # this variant supports no other value
        return False
    shapes, other_shapes = ({k: t.shape for k, t in m.state_dict().items()} for m in (ours, theirs))
    if shapes != other_shapes:
        return True
    theirs.given_options = frozenset(theirs.options)  # no warning about lacking metadata
    theirs.load_state_dict(dict(ours.state_dict()))
    images = 100 * example_images(ours, 1)  # large enough for ReLU6 to clip
    return not torch.equal(ours(images), theirs(images))


@torch.no_grad()
def test_options_that_do_not_change_outputs_are_free() -> None:
    """Every other option changes the outputs of at least one variant of each class that has it."""
    forms = defaultdict(list)
    with torch.device("meta"):
        for build in small_forms().values():
            forms[type(build())].append(build)
    unused = [
        (network.__name__, option)
        for network, builds in forms.items()
        for option in option_parameters(network)
        if option not in FREE and not any(changes_outputs(build, option) for build in builds)
    ]
    assert unused == []


def test_default_values_are_also_required(tmp_path: Path) -> None:
    folder = saved(tmp_path, cnnarch.lenet5())
    with pytest.raises(WeightsError, match="needs activation='tanh', got activation='relu'"):
        cnnarch.lenet5(weights=folder, activation="relu")
    with pytest.raises(WeightsError, match="requires a network built with pool='avg'"):
        load(cnnarch.lenet5(pool="max"), folder)


def test_an_unknown_required_option_is_rejected(tmp_path: Path) -> None:
    config = {"builder": "resnet18", "options": {"swish": True}}
    tensors = cnnarch.resnet18().state_dict()
    save_file(tensors, tmp_path / "w.safetensors", {METADATA_KEY: json.dumps(config)})
    with pytest.raises(WeightsError, match="needs swish=True, but the network has no such option"):
        cnnarch.resnet18(weights=tmp_path / "w.safetensors")


def test_loading_resets_an_eps_that_was_changed_manually(tmp_path: Path) -> None:
    folder = saved(tmp_path, cnnarch.efficientnet_lite0(num_classes=2))
    model = cnnarch.efficientnet_lite0(num_classes=2)
    model.stem.norm.eps = 0.1
    assert dict(load(model, folder).changed_options) == {"norm_eps": 1e-3}
    assert model.stem.norm.eps == model.options["norm_eps"] == 1e-3


def test_loading_updates_norm_eps_in_the_options(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one", cnnarch.efficientnet_lite0(num_classes=2))
    model = cnnarch.efficientnet_lite0(num_classes=2, norm_eps=1e-5)
    load(model, folder)
    again = cnnarch.from_pretrained(saved(tmp_path / "two", model))
    assert again.options == model.options
    assert again.options["norm_eps"] == again.stem.norm.eps == 1e-3


def test_conflicting_options_are_rejected_without_a_builder() -> None:
    from cnnarch.blocks import Bottleneck

    model = cnnarch.ResNet(Bottleneck, (3, 4, 6, 3), stride_in_1x1=True)
    theirs = cnnarch.weights.export(cnnarch.resnet50())
    with pytest.raises(WeightsError, match="built with stride_in_1x1=False"):
        load(model, theirs)


# Configs from older versions


@pytest.mark.parametrize("options", [{}, {"num_classes": 10, "in_channels": 1}])
def test_a_config_with_only_the_passed_options_loads(
    tmp_path: Path, options: dict[str, int]
) -> None:
    model = cnnarch.lenet5()
    config = json.dumps({"builder": "lenet5", "options": options, "version": "0.1"})
    save_file(model.state_dict(), tmp_path / "model.safetensors", {METADATA_KEY: config})
    (tmp_path / "config.json").write_text(config)
    again = cnnarch.from_pretrained(tmp_path)
    assert again.options == model.options
    assert again.state_dict().keys() == model.state_dict().keys()


def test_an_option_saved_as_none_loads(tmp_path: Path) -> None:
    config = json.dumps({"builder": "se_resnet18", "options": {"stride_in_1x1": None}})
    model = cnnarch.se_resnet18(num_classes=2)
    save_file(model.state_dict(), tmp_path / "model.safetensors", {METADATA_KEY: config})
    again = cnnarch.from_pretrained(tmp_path / "model.safetensors")
    assert again.options == model.options


# Saved networks are rebuilt exactly


def test_builders_recreate_the_layers_from_recorded_options(model_name: str) -> None:
    with torch.device("meta"):
        check_rebuilds(cnnarch.get_model(model_name))
        if "small_images" in option_parameters(cnnarch.get_model_builder(model_name)):
            options = {"small_images": True, "in_channels": 1, "num_classes": 0}
            check_rebuilds(cnnarch.get_model(model_name, **options))


def replaced_classifier(model: Any) -> None:
    model.head.classifier = nn.Linear(512, 7)


def replaced_first_convolution(model: Any) -> None:
    model.stem.conv = nn.Conv2d(1, 64, 7, 2, 3, bias=False)


def no_classifier(model: Any) -> None:
    model.head.classifier = nn.Identity()


def reset(model: Any) -> None:
    model.reset_classifier(4)


def synchronized(model: Any) -> None:
    cnnarch.finetuning.convert_norm(model, "sync")


def in_place(model: Any) -> None:
    cnnarch.finetuning.set_inplace(model)


def other_training_settings(model: Any) -> None:
    model.stem.norm.momentum, model.head.dropout.p = 0.01, 0.5


@pytest.mark.parametrize(
    "edit",
    [
        *(replaced_classifier, replaced_first_convolution, no_classifier, reset),
        *(synchronized, in_place, other_training_settings),
    ],
)
def test_supported_changes_are_saved_and_restored(
    edit: Callable[[Any], None], tmp_path: Path
) -> None:
    model = cnnarch.resnet18()
    edit(model)
    x = X[:, : model.in_channels]
    if edit is not synchronized:  # SyncBatchNorm trains only on accelerators
        calibrate(model, x)
    again = cnnarch.from_pretrained(saved(tmp_path, model.eval())).eval()
    assert (again.num_classes, again.in_channels) == (model.num_classes, model.in_channels)
    with torch.no_grad():
        assert_close(again(x), model(x), 0.0)


def custom_head(model: Any) -> None:
    model.head.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(512, 3))


def different_pool(model: Any) -> None:
    model.head.pool = nn.AdaptiveMaxPool2d(1)


def different_eps(model: Any) -> None:
    model.stages[0][1].branch.conv1.norm.eps = 1e-3


def different_stride(model: Any) -> None:
    model.stem.conv.stride = (1, 1)


def no_bias(model: Any) -> None:
    model.head.classifier = nn.Linear(512, 1000, bias=False)


def added_layer(model: Any) -> None:
    model.stages[3].append(nn.Conv2d(512, 512, 1))


def removed_block(model: Any) -> None:
    del model.stages[3][-1]


def compiled(model: Any) -> None:
    model.stages[0] = torch.compile(model.stages[0], backend="eager")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (custom_head, r"head.classifier is Sequential\(\), not Linear\("),
        (different_pool, r"head.pool is AdaptiveMaxPool2d\(.*\), not AdaptiveAvgPool2d\("),
        (different_eps, r"stages.0.*norm is BatchNorm2d\(.*eps=0.001.*\), not .*eps=1e-05"),
        (different_stride, r"stem.conv is Conv2d\(.*stride=\(1, 1\).*\), not .*stride=\(2, 2\)"),
        (no_bias, r"head.classifier is Linear\(.*bias=False\), not .*bias=True"),
        (added_layer, r"stages.3.2 was added"),
        (removed_block, r"stages.3.1 is missing"),
        (compiled, r"stages.0 is OptimizedModule"),
    ],
)
def test_unsupported_changes_are_rejected_with_the_layers_name(
    edit: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    model = cnnarch.resnet18()
    edit(model)
    with pytest.raises(WeightsError, match=rf"(?s)cannot be saved.*{message}"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_without_a_builder_cannot_be_saved(tmp_path: Path) -> None:
    model = cnnarch.ResNet(Residual, (2, 2, 2, 2))
    with pytest.raises(WeightsError, match=r"created by a builder.*no builder created this ResNet"):
        model.save_pretrained(tmp_path)
    model.builder = "my_resnet"
    with pytest.raises(WeightsError, match="my_resnet, which cnnarch does not define"):
        model.save_pretrained(tmp_path)


def test_saving_does_not_change_the_rng_state(tmp_path: Path) -> None:
    model = cnnarch.lenet5_1998()
    before = torch.get_rng_state()
    model.save_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


class StandardizedConv2d(nn.Conv2d):
    """A subclass with the same tensors that could define a different forward method."""


def replace_a_class(model: cnnarch.ImageClassifier) -> None:
    conv = model.stem.conv
    other = StandardizedConv2d(conv.in_channels, conv.out_channels, 3, 1, 1, bias=False)
    other.load_state_dict(conv.state_dict())
    model.stem.conv = other


def replace_a_forward(model: cnnarch.ImageClassifier) -> None:
    model.stages[0].forward = lambda x: x


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (replace_a_class, "stem.conv is StandardizedConv2d"),
        (replace_a_forward, "stages.0 has a forward method that its class does not define"),
    ],
)
def test_changed_classes_and_forward_methods_are_rejected(
    tmp_path: Path, edit: Callable[[cnnarch.ImageClassifier], None], message: str
) -> None:
    model = cnnarch.resnet20_cifar()
    edit(model)
    with pytest.raises(WeightsError, match=message):
        model.save_pretrained(tmp_path)
