"""Networks saved in timm's layout, loaded by timm, transformers and cnnarch."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import cnnarch
from cnnarch.facts.sheets import facts_of, twins
from cnnarch.inference import Predictor
from cnnarch.testing import assert_close, calibrate
from cnnarch.weights import Preprocessing, WeightsError, push_to_hub
from tests.weights.runs import CLASSES, network, photograph, write_run
from tests.weights.server import Server

timm = pytest.importorskip("timm", reason="requires cnnarch[test]")


def trained(name: str, size: int = 64, **options: Any) -> cnnarch.ImageClassifier:
    """Return a network whose statistics belong to its weights, and classes for three labels."""
    torch.manual_seed(0)
    model = network(name, **options)
    channels = model.in_channels
    model.preprocessing = Preprocessing(
        size, math.floor(size * 1.14), "bicubic", (0.4, 0.5, 0.6)[:channels], (0.25,) * channels
    )
    calibrate(model, torch.randn(4, channels, size, size))
    return model.eval()


@pytest.fixture(scope="module")
def resnet_like() -> cnnarch.ImageClassifier:
    return trained("regnet_x_200mf")


@pytest.fixture(scope="module")
def folder(resnet_like: cnnarch.ImageClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "net"
    resnet_like.save_pretrained(path, layout="timm")
    return path


QUICK = ("regnetx_002", "tf_efficientnet_lite0", "semnasnet_050", "mobilenetv3_small_100")


def each_family() -> list[object]:
    """Return timm's twins of the smallest network of each family; slow unless in `QUICK`."""
    found = {}
    for twin in sorted(twins(library="timm"), key=lambda t: -cnnarch.get_card(t.builder).params):
        found[cnnarch.get_card(twin.builder).family, *sorted(twin.options)] = twin
    quick = [twin for twin in twins(library="timm") if twin.name in QUICK]
    rest = [twin for twin in found.values() if twin.name not in QUICK]
    return [pytest.param(twin, id=twin.name) for twin in quick] + [
        pytest.param(twin, id=twin.name, marks=pytest.mark.slow) for twin in rest
    ]


@pytest.mark.parametrize("twin", each_family())
def test_timm_and_cnnarch_load_the_same_logits(twin: Any, tmp_path: Path) -> None:
    size = twin.one_size or 96
    if size is True:
        size = facts_of(twin.builder).forms[0].input_size[-1]
    model = trained(twin.builder, size, **twin.options)
    model.save_pretrained(tmp_path, layout="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    again = cnnarch.from_pretrained(tmp_path).eval()
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = model(x)
        assert_close(theirs(x), expected, max(twin.tolerance, 1e-6))
        assert_close(again(x), expected, 1e-6)
    assert again.builder == twin.builder
    free = {"dropout", "drop_path", "norm_momentum", "zero_init_residual"}
    kept = {k: v for k, v in model.options.items() if k not in free}
    assert {k: v for k, v in again.options.items() if k not in free} == kept
    assert again.preprocessing == model.preprocessing
    assert again.categories == CLASSES  # type: ignore[attr-defined]


def test_timm_reads_classes_channels_and_preprocessing(tmp_path: Path) -> None:
    model = trained("regnet_x_200mf", in_channels=1)
    model.save_pretrained(tmp_path, layout="timm")
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(theirs)
    assert tuple(config["input_size"]) == (1, 64, 64)
    assert (tuple(config["mean"]), tuple(config["std"])) == ((0.4,), (0.25,))
    resize = timm.data.create_transform(**config).transforms[0]
    assert resize.size == 72  # floor(1.14 * 64)
    assert theirs.pretrained_cfg["label_names"] == list(CLASSES)
    x = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert_close(theirs(x), model(x), 1e-6)


def test_timm_replaces_the_classifier_of_a_saved_network(
    folder: Path, resnet_like: cnnarch.ImageClassifier
) -> None:
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert theirs(x).shape == (2, 7)
        ours = resnet_like.forward_features(x)
        assert_close(theirs.forward_features(x), ours, 1e-5)


@pytest.mark.parametrize(
    ("crop", "resize"), [(224, 235), (224, 256), (96, 110), (32, 32), (64, 48)]
)
@pytest.mark.parametrize("squash", [False, True])
def test_preprocessing_survives_the_conversion_to_a_crop_fraction(
    resnet_like: cnnarch.ImageClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crop: int,
    resize: int,
    squash: bool,
) -> None:
    wanted = Preprocessing(crop, resize, "bilinear", squash=squash)
    monkeypatch.setattr(resnet_like, "preprocessing", wanted)
    resnet_like.save_pretrained(tmp_path, layout="timm")
    assert cnnarch.from_pretrained(tmp_path).preprocessing == wanted
    facts = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(facts))
    assert transform.transforms[0].size in (resize, (resize, resize), [resize, resize])


@pytest.mark.parametrize("layout", ["cnnarch", "timm"])
def test_a_moved_folder_loads_from_any_working_directory(
    resnet_like: cnnarch.ImageClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    resnet_like.save_pretrained("net", layout=layout)
    Path("net").rename("elsewhere/moved")
    found = [cnnarch.from_pretrained(tmp_path / "elsewhere" / "moved")]
    monkeypatch.chdir("elsewhere")
    found.append(cnnarch.from_pretrained("moved"))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for model in found:
            assert_close(model.eval()(x), resnet_like(x), 1e-6)


def test_the_hub_serves_the_same_network_to_timm_and_cnnarch(hub: Server, tmp_path: Path) -> None:
    model = trained("regnet_x_200mf")
    run = write_run(tmp_path / "run", model)
    push_to_hub(model, "owner/flowers", run=run, layout="timm", token="hf_none")
    assert "curves.png" in hub.repositories["owner/flowers"]
    card = ModelCard(hub.repositories["owner/flowers"]["README.md"].decode())
    assert card.data.library_name == "timm"
    assert 'timm.create_model("hf-hub:owner/flowers", pretrained=True)' in card.text
    assert 'pipeline("image-classification", model="owner/flowers")' in card.text
    ours = cnnarch.from_pretrained("owner/flowers").eval()
    theirs = timm.create_model("hf-hub:owner/flowers", pretrained=True).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert_close(ours(x), model(x), 1e-6)
        assert_close(theirs(x), model(x), 1e-6)


def test_transformers_returns_the_classes_and_probabilities_of_the_network(
    folder: Path, resnet_like: cnnarch.ImageClassifier
) -> None:
    transformers = pytest.importorskip("transformers", reason="requires transformers")
    classify = transformers.pipeline("image-classification", model=str(folder))
    found = classify(photograph())
    (expected,) = Predictor(resnet_like)([photograph()])
    assert [each["label"] for each in found] == list(expected.classes)
    # PIL resizes the image here, and torchvision in `Predictor`: pixels differ by one at most.
    scores = [each["score"] for each in found]
    assert scores == pytest.approx(expected.probabilities, abs=0.01)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "lenet5",
            {"in_channels": 3},
            "lenet5, so it can only be saved in cnnarch's",
        ),
        ("resnet18", {"small_images": True}, "resnet18 equals ours built with small_images=False"),
        ("resnet50", {"stride_in_1x1": True}, "built with stride_in_1x1=False, but this one has"),
        ("efficientnet_lite0", {}, "efficientnet_lite0 equals ours built with norm_eps=1e-05"),
        ("mobilenet_v2", {"width": 0.9}, r"mobilenetv2_100 equals ours built with width=1\.0"),
        ("mixer_s32", {"image_size": 96}, "built with image_size=224, but this one has"),
        ("mixer_s32", {}, "accepts only images of 224 pixels, but .* crops them to 64"),
    ],
)
def test_networks_that_timm_lacks_are_rejected(
    tmp_path: Path, name: str, options: dict[str, Any], message: str
) -> None:
    model = network(name, **options)
    with pytest.raises(WeightsError, match=message):
        model.save_pretrained(tmp_path / "net", layout="timm")
    assert not (tmp_path / "net").exists()


def test_timm_accepts_dla_with_sides_that_are_multiples_of_32(tmp_path: Path) -> None:
    model = network("dla46x_c")
    model.preprocessing = Preprocessing(96, 96)
    model.save_pretrained(tmp_path / "net", layout="timm")
    model.preprocessing = Preprocessing(100, 100)
    message = "dla46x_c accepts only images whose sides are multiples of 32, .* crops them to 100"
    with pytest.raises(WeightsError, match=message):
        model.save_pretrained(tmp_path / "other", layout="timm")


def test_what_timm_cannot_record_is_rejected(tmp_path: Path) -> None:
    model = network("regnet_x_200mf")
    with pytest.raises(WeightsError, match="layout must be 'cnnarch' or 'timm', got 'keras'"):
        model.save_pretrained(tmp_path, layout="keras")
    model.preprocessing = Preprocessing(64, 64, antialias=False)
    with pytest.raises(WeightsError, match="antialias=False"):
        model.save_pretrained(tmp_path, layout="timm")
    model.preprocessing = None
    with pytest.raises(WeightsError, match="set its `preprocessing` first"):
        model.save_pretrained(tmp_path, layout="timm")
    cnnarch.dilation.dilate(model, 8)
    model.preprocessing = Preprocessing(64, 64)
    with pytest.raises(WeightsError, match="dilated"):
        model.save_pretrained(tmp_path, layout="timm")
    assert not list(tmp_path.iterdir())


def test_descriptions_replace_identifiers_as_class_names(folder: Path, tmp_path: Path) -> None:
    """Timm's networks for ImageNet-21k name classes by WordNet identifiers."""
    facts = json.loads((folder / "config.json").read_text())
    facts["label_names"] = ["n1", "n2", "n3"]
    facts["label_descriptions"] = {"n1": "daisy, a flower", "n3": "tulip"}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    model = cnnarch.from_pretrained(tmp_path)
    assert model.categories == ("daisy, a flower", "n2", "tulip")  # type: ignore[attr-defined]
