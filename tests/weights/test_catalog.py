"""The catalog agrees with the metadata of torchvision's and timm's checkpoints."""

import inspect
import json
from typing import Any

import PIL.Image
import pytest
import timm
import torch
import torchvision
from torchvision.models import get_model, get_model_builder, get_model_weights
from torchvision.transforms.functional import normalize

import cnnarch
from cnnarch.facts.cards import Twin
from cnnarch.facts.sheets import twins
from cnnarch.weights import Weights, get_weights
from cnnarch.weights.catalog import NOT_STATED, entry_from_torchvision
from tests.oracles.catalog import CATALOG, as_json, collect, facts_of
from tests.small_forms import without_memory

ENTRIES = [e for name in cnnarch.list_models(weights=True) for e in get_weights(name).values()]
TORCHVISION = [
    (twin, member)
    for twin in twins(library="torchvision")
    for member in get_model_weights(twin.name)
]
TRANSFORMING = [
    name
    for name in torchvision.models.list_models()
    if "transform_input" in inspect.getsource(get_model_builder(name))
]
FEATURES = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES  # has no classes


def test_the_catalog_agrees_with_the_installed_libraries() -> None:
    """After adding twins, run `python -m tests.oracles.catalog`.

    Versions of timm add, remove and rename checkpoints, so the test compares only the checkpoints
    that the catalog and timm have in common, and ignores their tags.
    """
    collected = {(e.network, e.url): e for entries in collect().values() for e in entries.values()}
    known = [e for e in ENTRIES if (e.network, e.url) in collected]
    for entry in known:
        theirs = facts_of(collected[entry.network, entry.url])
        assert facts_of(entry) == theirs, f"{entry.network} {entry.tag}"
    assert {e.layout for e in known} == {e.layout for e in ENTRIES}
    have = {(e.network, e.url) for e in ENTRIES}
    assert {key for key, e in collected.items() if e.layout != "timm"} <= have


def test_the_catalog_file_is_formatted_as_its_generator_writes_it() -> None:
    names = json.loads(CATALOG.read_text())
    assert CATALOG.read_text() == as_json({name: get_weights(name) for name in names})


@pytest.mark.parametrize(("twin", "member"), TORCHVISION, ids=lambda v: v.name)
def test_entries_match_torchvisions_metadata(twin: Twin, member: Any) -> None:
    entry = get_weights(twin.builder)[member.name]
    preset = member.transforms()
    assert entry.url == member.url
    assert f"-{entry.sha256}.pth" in member.url
    if member is FEATURES:
        assert (entry.num_classes, entry.categories, entry.metrics) == (None, None, {})
    else:
        assert entry.num_classes == len(member.meta["categories"]) == 1000
        assert list(entry.categories or ()) == member.meta["categories"]
        assert entry.metrics == member.meta["_metrics"]["ImageNet-1K"]
    assert entry.dataset == "ImageNet-1K"
    assert entry.file_size == member.meta["_file_size"]
    assert entry.source == member.meta["recipe"]
    assert entry.license == member.meta.get("license", NOT_STATED)
    preprocessing = entry.preprocessing
    assert preprocessing is not None
    assert [preprocessing.crop_size] == preset.crop_size
    assert [preprocessing.resize_size] == preset.resize_size
    assert preprocessing.interpolation == preset.interpolation.value
    if twin.name not in TRANSFORMING:
        assert list(preprocessing.mean) == preset.mean
        assert list(preprocessing.std) == preset.std


@pytest.mark.parametrize("name", TRANSFORMING)
def test_mean_and_std_include_torchvisions_input_transform(name: str) -> None:
    """These networks convert the default normalization to (x - 0.5) / 0.5."""
    member = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    preprocessing = entry_from_torchvision(member).preprocessing
    assert preprocessing is not None
    with torch.device("meta"):
        theirs = get_model(name, weights=None, init_weights=False, transform_input=True)
    pixels = torch.rand(1, 3, 8, 8)
    default, ours = (
        normalize(pixels, list(source.mean), list(source.std))
        for source in (member.transforms(), preprocessing)
    )
    assert torch.allclose(theirs._transform_input(default), ours, atol=1e-6)


@pytest.mark.parametrize("twin", twins(library="torchvision"), ids=lambda t: t.name)
def test_the_default_matches_torchvisions(twin: Any) -> None:
    default = get_model_weights(twin.name).DEFAULT  # type: ignore[attr-defined]
    assert next(iter(get_weights(twin.builder))) == default.name


def test_defaults_are_frozen_for_a_major_version() -> None:
    """The meaning of `weights="DEFAULT"` must not change before version 1.0."""
    frozen = {
        "alexnet_owt": "IMAGENET1K_V1",
        "densenet121": "IMAGENET1K_V1",
        "efficientnet_b0": "IMAGENET1K_V1",
        "efficientnet_b1": "IMAGENET1K_V2",
        "efficientnet_b7": "IMAGENET1K_V1",
        "efficientnet_lite0": "IMAGENET1K_V1",
        "googlenet_bn": "IMAGENET1K_V1",
        "resnet18": "IMAGENET1K_V1",
        "resnet34": "IMAGENET1K_V1",
        "resnet50": "IMAGENET1K_V2",
        "resnet101": "IMAGENET1K_V2",
        "resnet152": "IMAGENET1K_V2",
        "vgg16": "IMAGENET1K_V1",
        "vgg19_bn": "IMAGENET1K_V1",
    }
    assert {name: next(iter(get_weights(name))) for name in frozen} == frozen


TIMM = [e for e in ENTRIES if e.layout == "timm"]


@pytest.mark.parametrize("entry", TIMM, ids=lambda e: e.url.rpartition("/")[2])
def test_entries_match_timms_metadata(entry: Weights) -> None:
    names = {f"{t.name}.*" for t in twins(entry.network, "timm")}
    configs = [timm.models.get_pretrained_cfg(n) for p in names for n in timm.list_pretrained(p)]
    found = [c for c in configs if entry.url in (f"hf-hub:{c.hf_hub_id}", c.url)]
    if not found:
        pytest.skip(f"timm {timm.__version__} does not list it")
    (config,) = found
    assert entry.architecture == config.architecture
    assert entry.num_classes == config.num_classes
    assert (config.license or NOT_STATED) == entry.license
    if config.crop_mode == "center":
        preprocessing = entry.preprocessing
        assert preprocessing is not None
        assert (preprocessing.mean, preprocessing.std) == (config.mean, config.std)
        assert preprocessing.interpolation == config.interpolation
        assert preprocessing.crop_size == config.input_size[-1]
        assert preprocessing.resize_size == int(config.input_size[-1] / config.crop_pct)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: f"{e.network}-{e.tag}")
def test_every_entry_has_a_url_a_hash_and_valid_options(entry: Weights) -> None:
    assert entry.url.startswith(("https://", "hf-hub:timm/", "package:"))
    if not entry.url.startswith("hf-hub:"):  # the hub stores files by hash
        assert entry.sha256 is not None
        assert len(entry.sha256) in range(8, 65)
    assert entry.license
    model = without_memory(str(entry.network), in_channels=entry.in_channels, **entry.options)
    assert model.in_channels == entry.in_channels == (1 if entry.labels == "fashion_mnist" else 3)
    classes = 10 if entry.labels == "fashion_mnist" else 1000
    assert entry.categories is None or len(entry.categories) == entry.num_classes == classes


def test_all_torchvision_twins_have_checkpoints() -> None:
    with_weights = set(cnnarch.list_models(weights=True))
    assert {t.builder for t in twins(library="torchvision")} <= with_weights
    assert "plain18" not in with_weights
    assert cnnarch.get_card("resnet50").weights[:2] == ("IMAGENET1K_V2", "IMAGENET1K_V1")


def test_a_network_without_checkpoints_has_no_entries() -> None:
    assert get_weights("plain18") == {}
    assert get_weights("no such network") == {}


def photograph() -> PIL.Image.Image:
    from sklearn.datasets import load_sample_image

    return PIL.Image.fromarray(load_sample_image("china.jpg"))


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0"])
def test_the_transform_matches_torchvisions_preset(name: str) -> None:
    """PIL and torch resize differently, so values may differ by one 8-bit level."""
    member = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    preprocessing = get_weights(name)[member.name].preprocessing
    assert preprocessing is not None
    image = photograph()
    difference = (preprocessing.transform()(image) - member.transforms()(image)).abs()
    assert (difference * torch.tensor(preprocessing.std)[:, None, None]).max() <= 1.001 / 255
