"""A builder's `weights=`: construction on the meta device and memory-mapped tensors."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

import cnnarch
from cnnarch.testing import assert_close, calibrate
from cnnarch.weights import Weights, WeightsError, export
from tests.forks import Forks

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def printed(forks: Forks, code: str) -> str:
    """Return the output of code run in a process that has imported only torch and cnnarch."""
    (ended,) = forks.run(code)
    assert ended.status == 0, ended.err
    return ended.out.strip()


def save_torchvision(folder: Path, model: nn.Module, **extra: Any) -> Path:
    path = folder / "theirs.pth"
    torch.save({"model": model.state_dict(), **extra}, path)
    return path


@pytest.mark.parametrize("form", ["folder", "file", "Path", "state dict"])
def test_every_type_of_weights_argument_produces_the_same_logits(
    resnet: cnnarch.ImageClassifier, saved: Path, form: str
) -> None:
    weights: Any = {
        "folder": str(saved),
        "file": str(saved / "model.safetensors"),
        "Path": saved / "model.safetensors",
        "state dict": resnet.state_dict(),
    }[form]
    model = cnnarch.resnet18(weights=weights).eval()
    with torch.no_grad():
        assert_close(model(X), resnet(X), 0.0)


def test_a_checkpoint_from_torchvisions_training_script_loads(
    resnet: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    import argparse

    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(export(resnet))
    path = save_torchvision(tmp_path, theirs, args=argparse.Namespace(lr=0.1), epoch=3)
    with torch.no_grad():
        assert_close(cnnarch.resnet18(weights=path).eval()(X), theirs.eval()(X), 0.0)


def test_the_class_and_channel_counts_come_from_the_checkpoint(tmp_path: Path) -> None:
    torch.save(cnnarch.resnet18(num_classes=9, in_channels=5).state_dict(), tmp_path / "w.pth")
    model = cnnarch.resnet18(weights=tmp_path / "w.pth")
    assert (model.num_classes, model.in_channels) == (9, 5)
    assert (model.options["num_classes"], model.options["in_channels"]) == (9, 5)


def test_passed_options_override_those_of_the_checkpoint(
    saved: Path, resnet: cnnarch.ImageClassifier
) -> None:
    torch.manual_seed(0)
    model = cnnarch.resnet18(weights=saved, num_classes=10, in_channels=1).eval()
    assert (model.options["num_classes"], model.options["in_channels"]) == (10, 1)
    assert model(X[:, :1]).shape == (2, 10)
    weight = model.get_parameter("head.classifier.weight")
    assert 0 < weight.std() < 0.1  # it was initialized
    with torch.no_grad():
        gray = X[:, :1]
        expected = resnet.forward_features(gray.expand(-1, 3, -1, -1))
        assert_close(model.forward_features(gray), expected)


def test_a_network_with_no_classes_returns_the_features(
    saved: Path, resnet: cnnarch.ImageClassifier
) -> None:
    model = cnnarch.resnet18(weights=saved, num_classes=0).eval()
    with torch.no_grad():
        pooled = resnet.forward_head(resnet.forward_features(X), pre_logits=True)
        assert_close(model(X), pooled, 0.0)


def test_options_required_by_a_checkpoint_are_set(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = cnnarch.efficientnet_lite0(norm_eps=1e-2, padding="same")
    calibrate(model, X)
    model.eval().save_pretrained(tmp_path)
    again = cnnarch.efficientnet_lite0(weights=tmp_path).eval()
    assert (again.options["norm_eps"], again.options["padding"]) == (1e-2, "same")
    with torch.no_grad():
        assert_close(again(X), model(X), 0.0)


@pytest.mark.parametrize("option", [{"padding": "symmetric"}, {"norm_eps": 1e-5}])
def test_options_that_contradict_a_checkpoint_are_rejected_by_name(
    tmp_path: Path, option: dict[str, Any]
) -> None:
    model = cnnarch.efficientnet_lite0(norm_eps=1e-2, padding="same")
    model.save_pretrained(tmp_path)
    (name,) = option
    with pytest.raises(WeightsError, match=f"needs {name}=.*, got {name}="):
        cnnarch.efficientnet_lite0(weights=tmp_path, **option)


def test_a_weights_file_contains_its_options(tmp_path: Path) -> None:
    """The file can be moved without its config.json."""
    cnnarch.efficientnet_lite0(padding="same").save_pretrained(tmp_path)
    alone = (tmp_path / "model.safetensors").rename(tmp_path / "moved.safetensors")
    assert cnnarch.efficientnet_lite0(weights=alone).options["padding"] == "same"


def test_options_required_by_a_layout_are_set(tmp_path: Path) -> None:
    """efficientnet_pytorch's weights come from TensorFlow and need its padding."""
    state = export(cnnarch.efficientnet_lite0(padding="same"), "efficientnet_pytorch")
    torch.save(state, tmp_path / "lite0.pth")
    model = cnnarch.efficientnet_lite0(weights=tmp_path / "lite0.pth")
    assert (model.options["norm_eps"], model.options["padding"]) == (1e-3, "same")
    with pytest.raises(WeightsError, match="needs padding='same', got padding='symmetric'"):
        cnnarch.efficientnet_lite0(weights=tmp_path / "lite0.pth", padding="symmetric")


def test_passed_drop_rates_override_those_of_the_checkpoint(tmp_path: Path) -> None:
    cnnarch.resnet18(dropout=0.5).save_pretrained(tmp_path)
    assert cnnarch.resnet18(weights=tmp_path).options["dropout"] == 0.5
    assert cnnarch.resnet18(weights=tmp_path, dropout=0.1).options["dropout"] == 0.1


def test_a_checkpoint_for_a_different_network_raises(saved: Path) -> None:
    with pytest.raises(WeightsError, match="is of resnet18, not of resnet34"):
        cnnarch.resnet34(weights=saved)
    with pytest.raises(WeightsError, match="does not fit the network"):
        cnnarch.resnet34(weights=dict(cnnarch.resnet18().state_dict()))
    entry = cnnarch.weights.get_weights("resnet50")["IMAGENET1K_V1"]
    with pytest.raises(WeightsError, match="IMAGENET1K_V1 is for resnet50, not for resnet18"):
        cnnarch.resnet18(weights=entry)


@pytest.mark.parametrize("name", ["no/such/file.safetensors", "nothing.pth"])
def test_a_missing_path_raises_an_error_that_names_it(name: str) -> None:
    with pytest.raises(WeightsError, match=name):
        cnnarch.resnet18(weights=name)


def test_an_unknown_file_type_raises(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"weights files end in \.safetensors, \.pth"):
        cnnarch.resnet18(weights=tmp_path / "weights.h5")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_may_be_overwritten_after_it_was_read(
    tmp_path: Path, suffix: str, forks: Forks
) -> None:
    """Writing in place to a mapped file would end the process."""
    path = tmp_path / f"model{suffix}"
    code = f"""
import pathlib, torch, cnnarch
from safetensors.torch import save_file
def write(model):
    state = model.state_dict()
    save = save_file if {suffix!r} == ".safetensors" else torch.save
    save(state, {str(path)!r})
write(cnnarch.resnet18(num_classes=5))
model = cnnarch.resnet18(weights={str(path)!r})
expected = model.stem.conv.weight.clone()
write(model)
again = cnnarch.resnet18(weights={str(path)!r})
pathlib.Path({str(path)!r}).write_bytes(b"")
print(float(torch.equal(again.stem.conv.weight, expected) and model.num_classes == 5))
"""
    assert float(printed(forks, code)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units")
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_reading_a_file_needs_little_more_memory_than_its_size(
    tmp_path: Path, suffix: str, forks: Forks
) -> None:
    path = tmp_path / f"model{suffix}"
    model = cnnarch.vgg11(width=0.25)  # most of it is one matrix
    state = model.state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    code = f"""
import resource, torch, cnnarch
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
cnnarch.resnet20_cifar(weights=cnnarch.resnet20_cifar().state_dict())
before = peak()
model = cnnarch.vgg11(width=0.25, weights={str(path)!r})
print((peak() - before) / {path.stat().st_size})
"""
    assert float(printed(forks, code)) < 1.1


def test_each_tensor_has_a_separate_storage(saved: Path) -> None:
    """With shared storage, saving or copying one layer would include the whole file."""
    model = cnnarch.resnet18(weights=saved)
    for tensor in model.state_dict().values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_networks_load_onto_the_default_device_and_dtype(saved: Path) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        model = cnnarch.resnet18(weights=saved, num_classes=3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    with torch.device("meta"):
        assert cnnarch.resnet18(weights=saved, num_classes=3).stem.conv.weight.is_meta


def test_a_torchvision_enum_member_loads_its_file(
    resnet: cnnarch.ImageClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(export(resnet))
    path = tmp_path / os.path.basename(member.url)
    torch.save(theirs.state_dict(), path)
    fetched: list[Weights] = []

    def fetch(entry: Weights) -> Path:
        fetched.append(entry)
        return path

    monkeypatch.setattr("cnnarch.weights.checkpoint.fetch", fetch)
    for weights in (member, "IMAGENET1K_V1", "imagenet1k_v1", "DEFAULT"):
        model = cnnarch.resnet18(weights=weights).eval()
        assert fetched.pop().url == member.url
        with torch.no_grad():
            assert_close(model(X), resnet(X), 0.0)
    assert model.categories[:2] == ("tench", "goldfish")  # type: ignore[attr-defined]
    assert model.preprocessing.resize_size == 256  # type: ignore[attr-defined]


def test_cnnarch_weights_is_imported_on_first_use(forks: Forks) -> None:
    code = "import sys, cnnarch; cnnarch.resnet18(); print('cnnarch.weights' in sys.modules)"
    assert printed(forks, code) == "False"


def test_loading_our_own_file_imports_neither_torchvision_nor_the_hub(
    saved: Path, forks: Forks
) -> None:
    code = (
        f"import sys, cnnarch; cnnarch.resnet18(weights={str(saved)!r})\n"
        "print([m for m in ('torchvision', 'huggingface_hub', 'timm') if m in sys.modules])"
    )
    assert printed(forks, code) == "[]"


def test_from_pretrained_reads_the_builder_in_a_state_dict(tmp_path: Path) -> None:
    model = cnnarch.resnet20_cifar(num_classes=3, shortcut="B")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "net.ckpt")
    again = cnnarch.from_pretrained(tmp_path / "net.ckpt")
    assert (again.builder, again.options) == (model.builder, model.options)
    torch.save(dict(model.state_dict()), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="does not name the cnnarch builder"):
        cnnarch.from_pretrained(tmp_path / "net.pth")


def test_a_folder_needs_no_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cnnarch.resnet20_cifar(num_classes=3).save_pretrained("best")
    assert cnnarch.resnet20_cifar(weights="best").num_classes == 3
