"""Saving, rebuilding and sharing networks."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import cnnarch
from cnnarch.testing import assert_close, calibrate, example_images
from cnnarch.weights import Preprocessing, WeightsError, find_pretrained, push_to_hub
from tests.weights.server import Server

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_a_saved_folder_contains_tensors_config_and_card(
    saved: Path, resnet: cnnarch.ImageClassifier
) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    config = json.loads((saved / "config.json").read_text())
    assert config["builder"] == "resnet18"
    assert config["options"] == resnet.options
    assert config["version"] == cnnarch.__version__
    tensors = load_file(saved / "model.safetensors")
    assert tensors.keys() == resnet.state_dict().keys()
    assert "cnnarch.from_pretrained(" in (saved / "README.md").read_text()


def test_options_preprocessing_and_classes_are_restored(tmp_path: Path) -> None:
    model = cnnarch.resnet18(num_classes=2, small_images=True)
    model.preprocessing = Preprocessing(32, 36, "bicubic", (0.5,) * 3, (0.25,) * 3)  # type: ignore[assignment]
    model.categories = ("cat", "dög")  # type: ignore[assignment]
    model.save_pretrained(tmp_path)
    again = cnnarch.from_pretrained(tmp_path)
    assert again.options == model.options
    assert (again.num_classes, again.options["small_images"]) == (2, True)
    assert again.preprocessing == model.preprocessing
    assert again.categories == model.categories
    again.save_pretrained(tmp_path / "again")
    config = (tmp_path / "config.json").read_text()
    assert (tmp_path / "again" / "config.json").read_text() == config


def test_every_rebuilt_network_produces_the_same_logits(model_name: str, tmp_path: Path) -> None:
    model = cnnarch.get_model(model_name)
    x = example_images(model)
    calibrate(model, x)
    model.save_pretrained(tmp_path)
    again = cnnarch.from_pretrained(tmp_path).eval()
    assert again.builder == model_name
    with torch.no_grad():
        logits = model(x)
        # Mapped tensors are aligned differently, which changes the rounding on some processors.
        assert_close(again(x), logits, 1e-4)
        assert_close(copy.deepcopy(again)(x), logits, 0.0)
    other = cnnarch.from_pretrained(tmp_path, num_classes=7)
    assert other.num_classes == 7
    assert not any(tensor.is_meta for tensor in other.state_dict().values())
    for name, tensor in other.state_dict().items():
        if not name.startswith("head.classifier"):
            assert torch.equal(tensor, model.state_dict()[name]), name


def test_passed_options_override_saved_ones(saved: Path) -> None:
    assert cnnarch.from_pretrained(saved, num_classes=4).num_classes == 4


def test_a_network_is_rebuilt_from_the_tensors_file_alone(saved: Path) -> None:
    assert cnnarch.from_pretrained(saved / "model.safetensors").builder == "resnet18"


def test_overwriting_a_mapped_file_does_not_change_loaded_networks(
    resnet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    resnet.save_pretrained(tmp_path)
    one, other = (cnnarch.from_pretrained(tmp_path) for _ in range(2))
    with torch.no_grad():
        one.stem.conv.weight.zero_()
    one.save_pretrained(tmp_path)
    assert torch.equal(other.stem.conv.weight, resnet.stem.conv.weight)
    assert cnnarch.from_pretrained(tmp_path).stem.conv.weight.count_nonzero() == 0
    assert not list(tmp_path.glob("*.part"))
    assert not list(tmp_path.glob(".*"))


def test_a_failed_save_keeps_the_old_file(
    resnet: cnnarch.ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resnet.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space"):
        cnnarch.resnet18().save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_loaded_network_can_be_copied_and_pickled(saved: Path) -> None:
    model = cnnarch.from_pretrained(saved).eval()
    with torch.no_grad():
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_close(again(X), model(X), 0.0)


def test_a_network_instantiated_directly_cannot_be_saved(tmp_path: Path) -> None:
    from cnnarch.blocks import Residual

    with pytest.raises(
        WeightsError, match=r"created by a builder .* no builder created this ResNet"
    ):
        cnnarch.ResNet(Residual, (1, 1, 1, 1)).save_pretrained(tmp_path)


def test_a_network_on_the_meta_device_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = cnnarch.resnet18()
    with pytest.raises(WeightsError, match="meta device has no values"):
        model.save_pretrained(tmp_path)


def test_a_folder_without_a_builder_raises_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "vit_tiny", "num_classes": 10}')
    with pytest.raises(WeightsError, match="does not name the cnnarch builder"):
        cnnarch.from_pretrained(tmp_path)


def test_a_missing_folder_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for name in ("nothing", "runs/nothing"):
        with pytest.raises(WeightsError, match=f"'{name}' is not a folder, a file or hf-hub"):
            cnnarch.from_pretrained(name)


def test_a_network_pushed_to_the_hub_can_be_loaded_from_it(
    hub: Server, resnet: cnnarch.ImageClassifier
) -> None:
    address = push_to_hub(resnet, "owner/name", token="hf_none")
    assert address.startswith(hub.url)
    assert sorted(hub.repositories["owner/name"]) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    card = hub.repositories["owner/name"]["README.md"].decode()
    assert 'cnnarch.from_pretrained("hf-hub:owner/name")' in card
    for source in ("owner/name", "hf-hub:owner/name", "hf-hub:owner/name@main"):
        again = cnnarch.from_pretrained(source).eval()
        with torch.no_grad():
            assert_close(again(X), resnet(X), 0.0)
    assert find_pretrained("owner/name") == ("resnet18", "hf-hub:owner/name")


def test_a_failed_upload_raises(hub: Server, resnet: cnnarch.ImageClassifier) -> None:
    with pytest.raises(WeightsError, match="owner/name/more"):
        push_to_hub(resnet, "owner/name/more")
    assert hub.count("POST") == 0


def test_saved_files_have_permissions_set_by_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    cnnarch.lenet5().save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").iterdir():
        assert path.stat().st_mode == plain.stat().st_mode
