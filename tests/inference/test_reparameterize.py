"""Networks with branches are fused, saved, loaded, exported and optimized without them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.blocks import RepConv
from cnnarch.finetuning import convert_norm
from cnnarch.inference import export, fuse, optimize
from cnnarch.preprocessing import Preprocessing
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import WeightsError, load
from tests.small_forms import Build, small_forms

FORMS = ("repvgg", "mobileone")
ROUNDING = 1e-3
"""Untrained networks with many layers amplify rounding errors, with and without branches."""


def branched(module: nn.Module) -> int:
    return sum(isinstance(m, RepConv) for m in module.modules())


@pytest.fixture(params=FORMS)
def small(request: pytest.FixtureRequest) -> Build:
    return small_forms()[request.param]


@pytest.fixture
def small_model(small: Build) -> cnnarch.ImageClassifier:
    model = small(num_classes=5)
    calibrate(model, example_images(model, 8))
    return model


@pytest.fixture(scope="module")
def trained() -> Iterator[cnnarch.ImageClassifier]:
    """A network created by a builder, with random statistics."""
    torch.manual_seed(0)
    model = cnnarch.mobileone_s1(num_classes=5)
    model.preprocessing = Preprocessing(64, 64)
    model.categories = tuple("abcde")
    calibrate(model, torch.randn(4, 3, 64, 64))
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64)


@torch.no_grad()
def test_the_merged_network_computes_the_same(small_model: cnnarch.ImageClassifier) -> None:
    images = example_images(small_model)
    fused = fuse(small_model)
    assert branched(small_model)
    assert not branched(fused)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    assert_close(fused(images), small_model(images), 1e-5)
    exact = small_model.double()
    assert_close(fuse(exact)(images.double()), exact(images.double()), 1e-13)


@torch.no_grad()
def test_the_merged_network_is_the_one_built_with_deploy(
    small: Build, small_model: cnnarch.ImageClassifier
) -> None:
    fused, built = fuse(small_model), small(num_classes=5, deploy=True).eval()
    assert fused.options == built.options
    assert str(fused) == str(built)
    built.load_state_dict(fused.state_dict())
    images = example_images(small_model)
    assert torch.equal(built(images), fused(images))
    assert fused.feature_info == built.feature_info


@torch.no_grad()
def test_dilated_networks_and_backbones_are_merged(small_model: cnnarch.ImageClassifier) -> None:
    images = torch.randn(2, 3, 64, 64)
    cnnarch.dilation.dilate(small_model, 8)
    assert small_model.feature_info[-1].stride == 8
    fused = fuse(small_model)
    assert not branched(fused)
    assert_close(fused(images), small_model(images), 1e-5)
    backbone = cnnarch.Backbone(small_model)
    fused_backbone = fuse(backbone)
    assert not branched(fused_backbone)
    assert fused_backbone.options["deploy"]
    for found, expected in zip(
        fused_backbone(images).values(), backbone(images).values(), strict=True
    ):
        assert_close(found, expected, 1e-5)


@torch.no_grad()
def test_preprocessing_is_folded_into_the_merged_stem(
    small_model: cnnarch.ImageClassifier,
) -> None:
    preprocessing = Preprocessing(32, 32)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    expected = small_model((pixels / 255 - mean) / std)
    assert_close(fuse(small_model, preprocessing)(pixels), expected, 1e-5)


@torch.no_grad()
def test_group_norms_are_not_merged(small_model: cnnarch.ImageClassifier) -> None:
    convert_norm(small_model, "group")
    images = example_images(small_model)
    fused = fuse(small_model)
    assert branched(fused) == branched(small_model)
    assert fused.options["deploy"] is False
    assert_close(fused(images), small_model(images), 1e-5)


# Saving and loading


@torch.no_grad()
def test_saving_keeps_the_branches(
    trained: cnnarch.ImageClassifier, images: Tensor, tmp_path: Path
) -> None:
    trained.save_pretrained(tmp_path)
    loaded = cnnarch.from_pretrained(tmp_path).eval()
    assert branched(loaded) == 43
    assert torch.equal(loaded(images), trained(images))


@torch.no_grad()
def test_a_fused_network_is_saved_and_rebuilt(
    trained: cnnarch.ImageClassifier, images: Tensor, tmp_path: Path
) -> None:
    fused = fuse(trained)
    fused.save_pretrained(tmp_path)
    loaded = cnnarch.from_pretrained(tmp_path).eval()
    assert loaded.options["deploy"]
    assert not branched(loaded)
    assert loaded.builder == "mobileone_s1"
    assert loaded.categories == trained.categories
    assert loaded.preprocessing == trained.preprocessing
    assert torch.equal(loaded(images), fused(images))
    assert fuse(loaded).builder == "mobileone_s1"


@torch.no_grad()
def test_a_fused_network_with_frozen_norms_is_saved(
    trained: cnnarch.ImageClassifier, images: Tensor, tmp_path: Path
) -> None:
    frozen = convert_norm(cnnarch.mobileone_s1(num_classes=5), "frozen").eval()
    frozen.load_state_dict(trained.state_dict(), strict=True)
    fuse(frozen).save_pretrained(tmp_path)
    assert_close(cnnarch.from_pretrained(tmp_path).eval()(images), trained(images), ROUNDING)


def test_a_network_fused_with_preprocessing_is_not_saved(
    trained: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    fused = fuse(trained, trained.preprocessing)
    assert (fused.builder, fused.fused_from) == (None, "mobileone_s1")
    with pytest.raises(WeightsError, match="only a network created by a builder"):
        fused.save_pretrained(tmp_path)


@torch.no_grad()
def test_state_dicts_record_the_form(trained: cnnarch.ImageClassifier, images: Tensor) -> None:
    state = fuse(trained).state_dict()
    built = cnnarch.mobileone_s1(num_classes=5, deploy=True).eval()
    built.load_state_dict(state)
    assert_close(built(images), trained(images), ROUNDING)
    with pytest.raises(RuntimeError, match="with deploy=True, but this one has deploy=False"):
        cnnarch.mobileone_s1(num_classes=5).load_state_dict(state)
    with pytest.raises(RuntimeError, match="with deploy=False, but this one has deploy=True"):
        built.load_state_dict(trained.state_dict())


@pytest.mark.parametrize(
    ("library", "num_classes"), [(None, 3), ("timm", 0), ("timm", None), ("mobileone", None)]
)
@torch.no_grad()
def test_builders_choose_the_form_of_a_checkpoint_without_metadata(
    trained: cnnarch.ImageClassifier, library: str | None, num_classes: int | None
) -> None:
    options = {} if num_classes is None else {"num_classes": num_classes}
    if library is None:  # other libraries have no such option
        options["small_images"] = False
    for model in (trained, fuse(trained)):
        state = cnnarch.weights.export(model, library) if library else dict(model.state_dict())
        built = cnnarch.mobileone_s1(weights=state, **options)
        assert built.options["deploy"] == (not branched(model))
        found, expected = built.state_dict(), model.state_dict()
        names = found.keys() - {"head.classifier.weight", "head.classifier.bias"}
        assert all(torch.equal(found[name], expected[name]) for name in names)


def test_a_form_that_the_checkpoint_does_not_have_is_rejected(
    trained: cnnarch.ImageClassifier,
) -> None:
    state = dict(fuse(trained).state_dict())
    with pytest.raises(WeightsError, match="has branches if deploy=False, and none if deploy=True"):
        cnnarch.mobileone_s1(weights=state, deploy=False, small_images=False)
    with pytest.raises(WeightsError, match="has branches if deploy=False, and none if deploy=True"):
        load(cnnarch.mobileone_s1(num_classes=5, small_images=False), state)
    with pytest.raises(WeightsError, match="needs deploy=False, got deploy=True"):
        cnnarch.mobileone_s1(weights=trained.state_dict(), deploy=True)


@torch.no_grad()
def test_all_convolutions_that_read_the_image_are_adapted(
    trained: cnnarch.ImageClassifier, images: Tensor
) -> None:
    """A gray image gives the same logits as its three equal channels."""
    gray = images[:, :1]
    one = cnnarch.mobileone_s1(weights=trained.state_dict(), in_channels=1).eval()
    assert one.stem.conv.pointwise.conv.in_channels == 1
    assert_close(one(gray), trained(gray.expand(-1, 3, -1, -1)), ROUNDING)
    report = load(cnnarch.mobileone_s1(num_classes=5, in_channels=4), trained.state_dict())
    assert report.adapted == ("stem.conv.conv1.conv.weight", "stem.conv.pointwise.conv.weight")
    other = cnnarch.mobileone_s1(num_classes=5, in_channels=4)
    fresh = load(other, trained.state_dict(), adapt="random").fresh
    assert fresh == report.adapted


# Engines and files


def test_engines_run_the_merged_network(small_model: cnnarch.ImageClassifier) -> None:
    images = example_images(small_model)
    optimized = optimize(small_model, images, backend="eager", budget_s=5)
    assert not branched(optimized._engine.model)  # type: ignore[attr-defined]
    assert_close(optimized(images), small_model(images).detach(), 1e-4)


def test_exported_files_contain_no_branches(
    small_model: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    convolutions = sum(isinstance(m, nn.Conv2d) for m in fuse(small_model).modules())
    path = export(small_model, tmp_path / "net.pt2")
    nodes = torch.export.load(path).graph.nodes
    calls = [str(node.target) for node in nodes if node.op == "call_function"]
    assert sum("conv" in target for target in calls) == convolutions
    assert not any("batch_norm" in target for target in calls)
    assert branched(small_model)
