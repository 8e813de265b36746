"""The catalog agrees with the metadata of torchvision's and timm's checkpoints."""

import inspect
import json
from typing import Any

import PIL.Image
import pytest
import timm
import torch
import torchvision
from timm.data import create_transform, resolve_data_config
from torchvision.models import get_model, get_model_builder, get_model_weights
from torchvision.transforms.functional import normalize

import cnnarch
from cnnarch.facts.cards import Twin
from cnnarch.facts.sheets import twins
from cnnarch.weights import Weights, get_weights, port
from cnnarch.weights.catalog import NOT_STATED, entry_from_torchvision
from cnnarch.weights.config import parse_timm_preprocessing
from tests.oracles.catalog import CATALOG, as_json, collect, facts_of, timm_metrics
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
    preprocessing = entry.preprocessing
    assert preprocessing is not None
    assert (preprocessing.mean, preprocessing.std) == (config.mean, config.std)
    assert preprocessing.interpolation == config.interpolation
    assert preprocessing.crop_size == config.input_size[-1]
    assert preprocessing.resize_size == int(config.input_size[-1] / config.crop_pct)
    assert config.crop_mode == ("squash" if preprocessing.squash else "center")


@pytest.mark.parametrize("entry", [e for e in TIMM if e.num_classes != 1000], ids=lambda e: e.url)
def test_other_heads_of_timm_load_into_our_networks(entry: Weights) -> None:
    """The class counts are those of ImageNet-21k, ImageNet-12k or CLIP, or 0 for features."""
    with torch.device("meta"):
        theirs = timm.create_model(str(entry.architecture), num_classes=entry.num_classes)
    ours = without_memory(str(entry.network), num_classes=entry.num_classes, **entry.options)
    shapes = {name: tensor.shape for name, tensor in port(theirs.state_dict(), ours).items()}
    assert shapes == {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert ours.num_classes == entry.num_classes


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


NOT_CNNS = ("maxvit_", "swin_", "vit_")


def test_every_cnn_classifier_of_torchvision_is_in_the_catalog() -> None:
    """There are 68 in torchvision 0.29. Other tests compare the metadata of the checkpoints."""
    names = torchvision.models.list_models(module=torchvision.models)
    names = [name for name in names if not name.startswith(NOT_CNNS)]
    assert len(names) >= 68
    built = {twin.name for twin in twins(library="torchvision")}
    assert {*names} <= built
    urls = {e.url for e in ENTRIES}
    for name in sorted(built):
        missing = {member.name for member in get_model_weights(name) if member.url not in urls}
        assert not missing, f"{name}: {missing}"


@pytest.mark.parametrize("name", sorted({t.name for t in twins(library="timm")}))
def test_every_checkpoint_of_timm_is_in_the_catalog(name: str) -> None:
    """Checkpoints without a classifier are included; `num_classes` is then 0."""
    if timm.__version__ != "1.0.31":
        pytest.skip(f"the catalog was generated with timm 1.0.31, not {timm.__version__}")
    urls = {e.url for e in ENTRIES}
    for full_name in timm.list_pretrained(name):
        config = timm.models.get_pretrained_cfg(full_name)
        assert config is not None
        assert {f"hf-hub:{config.hf_hub_id}", config.url} & urls, full_name


@pytest.mark.parametrize(
    ("network", "tag", "size", "accuracies"),
    [  # rows of timm's results-imagenet.csv; timm also measured the first two at 288 pixels
        ("resnet50", "TIMM_A1_IN1K", 224, {"acc@1": 80.382, "acc@5": 94.598}),
        ("convnext_tiny", "TIMM_FB_IN22K_FT_IN1K", 224, {"acc@1": 82.9, "acc@5": 96.616}),
        ("efficientnet_v2_m", "TIMM_TF_IN1K", 384, {"acc@1": 84.554, "acc@5": 97.058}),
        ("se_resnet50", "TIMM_IN1K", 224, {"acc@1": 77.65, "acc@5": 93.732}),
    ],
)
def test_accuracies_are_those_measured_at_the_entrys_size(
    network: str, tag: str, size: int, accuracies: dict[str, float]
) -> None:
    entry = get_weights(network)[tag]
    assert entry.preprocessing is not None
    assert entry.preprocessing.crop_size == size
    assert entry.metrics == accuracies
    assert entry.dataset == "ImageNet-1K"
    assert "results-imagenet.csv" in str(entry.metrics_source)


def test_accuracies_at_another_size_or_crop_are_left_out() -> None:
    config: Any = timm.models.get_pretrained_cfg("resnet50.a1_in1k")
    facts = config.to_dict()
    assert timm_metrics("resnet50.a1_in1k", facts)
    for change in ({"input_size": (3, 256, 256)}, {"crop_pct": 0.9}, {"interpolation": "bilinear"}):
        assert timm_metrics("resnet50.a1_in1k", facts | change) == {}
    assert timm_metrics("resnet50.unknown", facts) == {}


def test_accuracies_have_a_source_and_every_classifier_of_imagenet_has_accuracies() -> None:
    """The accuracies of Lite0 in its package and of torchvision's VGG features are not known."""
    for entry in ENTRIES:
        known = bool(entry.metrics)
        assert known == (entry.metrics_source is not None), entry
        if known:
            assert entry.metrics.keys() <= {"acc@1", "acc@5"}
            assert all(0 < value < 100 for value in entry.metrics.values())
    unknown = {e.url for e in ENTRIES if e.labels == "imagenet1k" and not e.metrics}
    assert unknown == {get_weights("efficientnet_lite0")["IMAGENET1K_V1"].url}


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


@pytest.mark.parametrize("tag", ["TIMM_FB_IN1K", "TIMM_FB_IN22K_FT_IN1K_384"])
def test_the_transform_matches_timms(tag: str) -> None:
    """The second checkpoint's images are resized to squares without regard to their shape.

    PIL rounds to 8 bits after each direction, so a few values differ by two levels.
    """
    entry = get_weights("convnext_tiny")[tag]
    config = timm.models.get_pretrained_cfg(entry.url.rpartition("/")[2])
    assert config is not None
    assert config.crop_mode == ("squash" if tag.endswith("384") else "center")
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config.to_dict()))
    preprocessing, image = entry.preprocessing, photograph()
    assert preprocessing is not None
    assert image.width > image.height
    ours = preprocessing.transform()(image)
    assert ours.shape == (3, preprocessing.crop_size, preprocessing.crop_size)
    difference = (ours - theirs(image)).abs() * torch.tensor(preprocessing.std)[:, None, None]
    assert difference.max() <= 2.001 / 255
    assert (difference > 1.001 / 255).sum() <= 5


@pytest.mark.parametrize("crop_mode", ["border", "something"])
def test_other_ways_to_crop_are_not_guessed(crop_mode: str) -> None:
    facts = timm.models.get_pretrained_cfg("resnet50.a1_in1k").to_dict()  # type: ignore[union-attr]
    assert parse_timm_preprocessing(facts) is not None
    assert parse_timm_preprocessing(facts | {"crop_mode": crop_mode}) is None
