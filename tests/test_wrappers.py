"""Compiled, wrapped, pruned and reparametrized networks, and facts that follow their layers."""

import copy
import gc
import pickle
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as prune
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

import cnnarch
from cnnarch import viz
from cnnarch.analysis import count_macs, stage_shapes, summary
from cnnarch.dilation import dilate
from cnnarch.inference import Predictor, export, fuse, optimize
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import Preprocessing, WeightsError

MACS = 40_551_040
"""3x3 convolutions: 3*16 + 6*16*16 at 32x32, 16*32 + 5*32*32 at 16x16, 32*64 + 5*64*64 at 8x8,
each times 9 and the map's area; and 640 for the classifier."""


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def with_layer(path: str, change: Callable[[nn.Module], Any]) -> Callable[[Any], Any]:
    """Return a function that changes a layer of a network, or replaces it with the result."""

    def changed(model: Any) -> Any:
        result = change(model.get_submodule(path))
        if isinstance(result, nn.Module):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, result)
        return model

    return changed


def legacy(norm: Callable[..., Any]) -> Callable[[nn.Module], None]:
    def apply(layer: nn.Module) -> None:
        with warnings.catch_warnings(action="ignore"):  # deprecated
            norm(layer)

    return apply


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "compiled": compiled,
    "compiled_in_place": lambda m: (m.compile(backend="eager"), m)[1],
    "data_parallel": nn.DataParallel,
    "averaged": AveragedModel,
    "averaged_compiled": lambda m: AveragedModel(compiled(m)),
    "compiled_stem": with_layer("stem", compiled),
    "compiled_stage": with_layer("stages.1", compiled),
    "compiled_convolution": with_layer("stages.1.0.branch.conv1.conv", compiled),
}
REPARAMETRIZED: dict[str, Callable[[Any], Any]] = {
    "spectral": with_layer("stem.conv", lambda layer: (spectral_norm(layer), None)[1]),
    "weight": with_layer("stem.conv", lambda layer: (weight_norm(layer), None)[1]),
}
HOOKED: dict[str, Callable[[Any], Any]] = {
    "pruned": with_layer("stem.conv", lambda m: prune.l1_unstructured(m, "weight", 0.5) and None),  # type: ignore[no-untyped-call]
    "legacy_spectral": with_layer("stem.conv", legacy(nn.utils.spectral_norm)),
    "legacy_weight": with_layer("stem.conv", legacy(nn.utils.weight_norm)),
}
ALL = WRAPPED | REPARAMETRIZED | HOOKED


def network() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar()
    calibrate(model, example_images(model, 8))
    model.preprocessing, model.categories = Preprocessing(32, 32), tuple("abcdefghij")
    return model.eval()


def inside(model: Any) -> cnnarch.ImageClassifier:
    found = [m for m in model.modules() if isinstance(m, cnnarch.ImageClassifier)]
    return found[0]


@pytest.fixture(params=ALL)
def changed(request: pytest.FixtureRequest) -> Any:
    return ALL[request.param](network())


def test_counts_are_those_of_the_network_inside(changed: Any) -> None:
    assert count_macs(changed) == count_macs(changed, (3, 32, 32)) == MACS
    table = summary(changed)
    assert sum(row.macs for row in table.rows) == table.macs == MACS
    assert sum(row.params for row in table.rows) == table.params
    assert {"stem.conv", "stages.1.0.branch.conv1.conv"} <= {row.path for row in table.rows}
    assert stage_shapes(changed)["stages.1.0.branch.conv1.conv"] == (32, 16, 16)


def test_feature_info_follows_dilation(changed: Any) -> None:
    assert [row.stride for row in inside(changed).feature_info] == [1, 1, 2, 4]
    model = inside(ALL["data_parallel"](cnnarch.resnet18(num_classes=3)))
    assert model.feature_info[-1].stride == 32
    dilate(model, 8)
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 8, 8]


@pytest.mark.parametrize("kind", ALL)
def test_param_groups_contain_each_parameter_once(kind: str) -> None:
    changed = ALL[kind](network())
    groups = cnnarch.param_groups(changed, lr=1.0, layer_decay=0.5)
    found = [id(p) for group in groups for p in group["params"]]
    assert sorted(found) == sorted(id(p) for p in changed.parameters())
    rates = {group["name"].partition(",")[0]: group["lr"] for group in groups}
    assert rates == {"conv1": 1 / 16, "32x32": 1 / 8, "16x16": 1 / 4, "8x8": 1 / 2, "head": 1}


DILATED: dict[str, Callable[[Any], Any]] = {
    "compiled": compiled,
    "averaged": AveragedModel,
    "stage": with_layer("stages.2", compiled),
    "convolution": with_layer("stages.2.0.branch.conv1.conv", compiled),
    "shortcut": with_layer("stages.3.0.shortcut", compiled),
    "pool": with_layer("stages.0.pool", compiled),
    "spectral": with_layer(
        "stages.3.0.branch.conv1.conv", lambda layer: (weight_norm(layer), None)[1]
    ),
}


@pytest.mark.parametrize("kind", DILATED)
def test_dilation_keeps_every_second_pixel(kind: str) -> None:
    model = cnnarch.resnet18(num_classes=3)
    calibrate(model, example_images(model, 4))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval().forward_features(images)
        changed = DILATED[kind](model)
        changed.eval()(images)  # compiled before dilation
        dilate(changed, 8)
        found = inside(changed).eval().forward_features(images)
    assert found.shape[-1] == 8
    assert_close(found[..., ::4, ::4], expected, 1e-4)


@pytest.mark.parametrize("kind", WRAPPED | REPARAMETRIZED)
def test_every_use_of_the_network_gives_the_same_result(kind: str, tmp_path: Path) -> None:
    images = torch.randn(2, 3, 32, 32)
    changed = (WRAPPED | REPARAMETRIZED)[kind](network()).eval()
    with torch.no_grad():
        expected = changed(images)
        assert_close(fuse(changed)(images), expected, 1e-4)
        assert_close(optimize(changed, images, backend="eager")(images), expected, 1e-4)
        if kind in ("averaged", "compiled_stage", "weight"):  # the others take the same path
            export(changed, tmp_path / "net.pt2", example=images)
            program = torch.export.load(tmp_path / "net.pt2").module()
            assert_close(program(images), expected, 1e-4)
        features = cnnarch.embed(changed, images).features
        assert_close(inside(changed).head.classifier(torch.tensor(features)), expected, 1e-4)
    for mode in (True, False):
        pixels = np.zeros((2, 32, 32, 3), dtype=np.uint8)
        (first, _) = Predictor(changed.train(mode))(pixels)
        assert set(first.classes) <= set("abcdefghij")


@pytest.mark.parametrize("kind", HOOKED)
def test_a_weight_computed_in_a_hook_is_refused(kind: str) -> None:
    changed, images = HOOKED[kind](network()), torch.zeros(2, 3, 32, 32)
    uses: dict[str, Callable[[], Any]] = {
        "fuse": lambda: fuse(changed),
        "optimize": lambda: optimize(changed, images, backend="eager"),
        "export": lambda: export(changed, "net.pt2", example=images),
    }
    for use in uses.values():
        with pytest.raises(ValueError, match=r"layer 'stem\.conv' computes its weight in a hook"):
            use()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile reads it
@pytest.mark.parametrize("kind", ["compiled", "data_parallel", "averaged", "compiled_stage"])
def test_pictures_of_a_wrapped_network_name_its_stages(kind: str) -> None:
    images = torch.rand(4, 3, 32, 32)
    plain, changed = network(), WRAPPED[kind](network())

    def texts(figure: Any) -> list[str]:
        found = [t.get_text() for axes in figure.axes for t in axes.texts]
        return found + [axes.get_title() or axes.get_title("left") for axes in figure.axes]

    for draw in (
        lambda m: viz.diagram(m),
        lambda m: viz.gradcam(m, images),
        lambda m: viz.feature_maps(m, images[0]),
        lambda m: viz.filters(m),
        lambda m: viz.predictions(m, images),
        lambda m: viz.embeddings(m, images, method="pca"),
    ):
        assert texts(draw(changed)) == texts(draw(plain))


def test_feature_info_follows_a_change_of_any_layer() -> None:
    model = cnnarch.resnet18(num_classes=3)
    assert [row.stride for row in model.feature_info] == [2, 4, 8, 16, 32]
    model.stem.conv.stride = (1, 1)
    assert [row.stride for row in model.feature_info] == [1, 2, 4, 8, 16]
    model.stages[0].pool = nn.Identity()
    assert [row.stride for row in model.feature_info] == [1, 1, 2, 4, 8]
    model.stages[3] = nn.Conv2d(256, 40, 1)
    assert model.feature_info[-1] == ("conv5_x", 40, 4)
    model.stages[3].stride = (2, 2)
    assert model.feature_info[-1] == ("conv5_x", 40, 8)
    backbone = cnnarch.Backbone(model)
    model.stages[3] = nn.Conv2d(256, 50, 1)
    backbone.stages[3] = model.stages[3]
    assert backbone.channels[-1] == 50


def test_feature_info_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = cnnarch.resnet20_cifar(), list[Tensor]()
    original = type(model).forward_stages
    monkeypatch.setattr(
        type(model), "forward_stages", lambda self, x: calls.append(x) or original(self, x)
    )
    assert model.feature_info == model.feature_info
    assert len(calls) == 2  # of two sizes


def test_remembered_feature_info_is_neither_copied_nor_kept_alive() -> None:
    model = cnnarch.resnet20_cifar()
    size = len(pickle.dumps(model))
    cnnarch.freeze(model, 1)
    cnnarch.unfreeze(model)
    assert model.feature_info[-1].channels == 64
    assert len(pickle.dumps(model)) == size
    copied = copy.deepcopy(model)
    copied.stages[2] = nn.Conv2d(32, 7, 1)
    assert copied.feature_info[-1].channels == 7
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_a_changed_number_of_stages_is_an_error() -> None:
    for change in (lambda m: m.stages.append(nn.ReLU()), lambda m: m.stages.pop(2)):
        model = cnnarch.resnet20_cifar()
        change(model)
        with pytest.raises(ValueError, match=r"has [24] stages, but stage_names has 4 names"):
            model(torch.zeros(1, 3, 32, 32))


def with_four_channels() -> cnnarch.ImageClassifier:
    model = network()
    model.stem.conv = nn.Conv2d(4, 16, 3, padding=1, bias=False)
    return model


CHANNEL_USES: dict[str, Callable[[Any, Path], Any]] = {
    "predictor": lambda model, _: Predictor(model),
    "given": lambda model, _: Predictor(model, Preprocessing(32, 32)),
    "save": lambda model, path: model.save_pretrained(path / "net"),
    "embed": lambda model, _: cnnarch.embed(model, torch.zeros(1, 4, 32, 32, dtype=torch.uint8)),
    "export": lambda model, path: export(model, path / "net.pt2"),
    "feature_maps": lambda model, _: viz.feature_maps(model, torch.zeros(4, 32, 32)),
}


@pytest.mark.parametrize("use", CHANNEL_USES)
def test_a_preprocessing_for_other_channels_is_refused(use: str, tmp_path: Path) -> None:
    model = with_four_channels()
    assert model.in_channels == 4
    with pytest.raises(ValueError, match=r"for 3 channels, but the network's .* has 4: use"):
        CHANNEL_USES[use](model, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_network_with_four_channels_works_with_its_own_preprocessing(tmp_path: Path) -> None:
    model = with_four_channels()
    model.preprocessing = Preprocessing(32, 32, mean=(0.5,) * 4, std=(0.2,) * 4)
    model.save_pretrained(tmp_path)
    again = cnnarch.from_pretrained(tmp_path)
    pixels = np.zeros((1, 32, 32, 4), dtype=np.uint8)
    assert Predictor(again)(pixels)[0].classes == Predictor(model)(pixels)[0].classes


def test_a_first_layer_of_another_kind_keeps_the_option() -> None:
    model = network()
    model.stem.conv = nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (32, 32)))
    assert model.in_channels == 3


HOOKS: dict[str, tuple[Callable[[Any], Any], str | None]] = {
    "output": (
        lambda m: m.stages[1].register_forward_hook(lambda _m, _x, y: 2 * y),
        r"hooks of stages\.1 are not saved",
    ),
    "input": (
        lambda m: m.stem.conv.register_forward_pre_hook(lambda _m, x: (2 * x[0],)),
        r"hooks of stem\.conv are not saved",
    ),
    "network": (lambda m: m.register_forward_hook(lambda *_: None), "hooks of the network are"),
    "backward": (lambda m: m.register_full_backward_hook(lambda *_: None), None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_saving_warns_about_forward_hooks(kind: str, tmp_path: Path) -> None:
    model = network()
    register, message = HOOKS[kind]
    register(model)
    if message is None:
        model.save_pretrained(tmp_path)
    else:
        with pytest.warns(UserWarning, match=message):
            model.save_pretrained(tmp_path)
    with torch.no_grad():
        images = example_images(network())
        assert_close(cnnarch.from_pretrained(tmp_path).eval()(images), network()(images), 1e-6)


@pytest.mark.parametrize("kind", HOOKED)
def test_a_weight_computed_in_a_hook_is_not_saved(kind: str, tmp_path: Path) -> None:
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(WeightsError, match=r"layers were changed.*stem\.conv\.weight_\w+ was added"),
    ):
        HOOKED[kind](network()).save_pretrained(tmp_path / "net")
