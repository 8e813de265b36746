"""Checkpoints as training scripts and other frameworks save them."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.weights import WeightsError, export, load

SOURCE = cnnarch.resnet20_cifar(num_classes=5)


def prefixed(prefix: str, **more: Any) -> dict[str, Any]:
    return {prefix + name: tensor for name, tensor in SOURCE.state_dict().items()} | more


def check_loaded(model: nn.Module) -> None:
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in SOURCE.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    ["net.", "backbone.", "encoder_q.", "model.net.", "student.", "module.model._orig_mod."],
)
def test_any_prefix_is_removed(prefix: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_loaded(cnnarch.resnet20_cifar(weights=prefixed(prefix)))
    assert load(cnnarch.resnet20_cifar(num_classes=5), prefixed(prefix)).dropped == ()


def test_other_tensors_are_dropped_and_reported() -> None:
    state = prefixed("model.", **{"criterion.weight": torch.ones(5)})
    with pytest.warns(UserWarning, match=r"'model\.' were loaded, not criterion\.weight"):
        check_loaded(cnnarch.resnet20_cifar(weights=state))
    model = cnnarch.resnet20_cifar(num_classes=5)
    assert load(model, state).dropped == ("criterion.weight",)
    check_loaded(model)


def test_the_network_is_preferred_over_its_average_or_teacher() -> None:
    other = {f"encoder_k.{k}": torch.zeros_like(v) for k, v in SOURCE.state_dict().items()}
    with pytest.warns(UserWarning, match=r"'encoder_q\.' were loaded"):
        check_loaded(cnnarch.resnet20_cifar(weights=prefixed("encoder_q.") | other))


def test_a_network_of_another_size_is_not_mistaken_for_the_network() -> None:
    teacher = cnnarch.resnet56_cifar(num_classes=5)
    state = prefixed("student.") | {f"teacher.{k}": v for k, v in teacher.state_dict().items()}
    with pytest.warns(UserWarning, match=r"'student\.' were loaded"):
        check_loaded(cnnarch.resnet20_cifar(weights=state))


def test_networks_that_cannot_be_told_apart_are_named() -> None:
    with pytest.raises(WeightsError, match=r"'student\.' and 'teacher\.': pass the tensors of one"):
        cnnarch.resnet20_cifar(weights=prefixed("student.") | prefixed("teacher."))


def test_an_incomplete_network_with_a_prefix_names_its_missing_tensors() -> None:
    state = prefixed("net.")
    del state["net.stages.1.0.branch.conv1.conv.weight"]
    with pytest.raises(WeightsError, match=r"missing: stages\.1\.0\.branch\.conv1\.conv\.weight"):
        cnnarch.resnet20_cifar(weights=state)


@pytest.mark.parametrize("name", ["resnet34", "se_resnet18"])
def test_a_larger_network_does_not_load_into_a_backbone(name: str) -> None:
    source = cnnarch.get_model(name)
    with pytest.raises(WeightsError, match="unexpected: stages"):
        load(cnnarch.get_backbone("resnet18"), dict(source.state_dict()))
    if name == "resnet34":
        with pytest.raises(WeightsError, match="unexpected: layer1"):
            load(cnnarch.get_backbone("resnet18"), export(source, "timm"))


def test_later_stages_and_any_head_are_dropped_by_a_backbone() -> None:
    source: Any = cnnarch.resnet18()
    source.head.classifier = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))
    backbone = cnnarch.get_backbone("resnet18", stages=["conv3_x"])
    dropped = load(backbone, dict(source.state_dict())).dropped
    assert {name.split(".")[0] for name in dropped} == {"stages", "head"}
    assert not any(name.startswith(("stages.0.", "stages.1.")) for name in dropped)


def test_a_compiled_stage_is_loaded_into() -> None:
    model: Any = cnnarch.resnet20_cifar(num_classes=5)
    model.stages[1] = torch.compile(model.stages[1], backend="eager")
    load(model, SOURCE.state_dict())
    found = {k.replace("_orig_mod.", ""): v for k, v in model.state_dict().items()}
    assert all(torch.equal(found[k], v) for k, v in SOURCE.state_dict().items())
    theirs = cnnarch.resnet18(num_classes=5)
    other: Any = cnnarch.resnet18(num_classes=5)
    other.stages[1] = torch.compile(other.stages[1], backend="eager")
    load(other, export(theirs, "torchvision"))
    key = "stages.1._orig_mod.0.branch.conv1.conv.weight"
    assert torch.equal(other.state_dict()[key], theirs.state_dict()[key.replace("_orig_mod.", "")])


def test_the_keys_of_an_unknown_file_are_named() -> None:
    with pytest.raises(WeightsError, match="its keys are 'network', 'epoch'"):
        cnnarch.resnet20_cifar(weights={"network": SOURCE.state_dict(), "epoch": 3})


def test_a_compiled_stage_loads() -> None:
    model = cnnarch.resnet20_cifar(num_classes=5)
    model.load_state_dict(SOURCE.state_dict())
    model.stages[1] = torch.compile(model.stages[1], backend="eager")  # type: ignore[assignment]
    check_loaded(cnnarch.resnet20_cifar(weights=model.state_dict()))


@pytest.mark.parametrize("layout", ["torchvision", "timm"])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "vgg11_bn", "densenet121"])
def test_checkpoints_of_other_libraries_load_into_backbones(name: str, layout: str) -> None:
    options = {"norm_eps": 1e-5} if name == "efficientnet_b0" else {}
    source = cnnarch.get_model(name, num_classes=3, **options)
    backbone = cnnarch.get_backbone(name)
    report = load(backbone, export(source, layout))
    assert report.dropped
    assert backbone.options.get("norm_eps") == source.options.get("norm_eps")
    expected = source.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("key", ["net", "weights", "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth.tar", ".th", ".ckpt", ".pt"])
def test_usual_keys_and_suffixes_are_read(tmp_path: Path, key: str, suffix: str) -> None:
    path = tmp_path / f"best{suffix}"
    torch.save({key: SOURCE.state_dict(), "epoch": 3, "acc": 0.9}, path)
    check_loaded(cnnarch.resnet20_cifar(weights=path))
    check_loaded(cnnarch.resnet20_cifar(weights=str(path)))


def test_a_numpy_number_is_named_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    torch.save({"state_dict": SOURCE.state_dict(), "best": np.float64(0.9)}, path)
    with pytest.raises(
        WeightsError, match=r"contains a numpy[\w.]*scalar.*save only its"
    ) as raised:
        cnnarch.resnet20_cifar(weights=path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "index"])
def test_sharded_bin_files_are_read(tmp_path: Path, folder: bool) -> None:
    state, names = SOURCE.state_dict(), list(SOURCE.state_dict())
    index = {}
    for i, part in enumerate((names[:40], names[40:])):
        file = f"pytorch_model-{i}.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        index |= dict.fromkeys(part, file)
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    check_loaded(cnnarch.resnet20_cifar(weights=tmp_path if folder else path))


class OtherResNet(nn.Module):
    """ResNet-20 with the names of two well-known repositories.

    `zero_pad`: pytorch_resnet_cifar10, which pads half of the zero channels before the map's own
    and half after them. Otherwise: pytorch-classification, with 1x1 convolutions.
    """

    def __init__(self, zero_pad: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for i, width in enumerate((16, 32, 64)):
            inputs = max(16, width // 2)
            first, *rest = (OtherBlock(n, width, zero_pad) for n in (inputs, width, width))
            stage = nn.Sequential(first, *rest)
            self.add_module(f"layer{i + 1}", stage)
        setattr(self, "linear" if zero_pad else "fc", nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x))).mean((2, 3))
        return (self.linear if hasattr(self, "linear") else self.fc)(x)


class OtherBlock(nn.Module):
    def __init__(self, inputs: int, width: int, zero_pad: bool) -> None:
        super().__init__()
        stride = width // inputs
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.pad, self.downsample = (0, None) if stride == 1 else (width // 4, None)
        if stride > 1 and not zero_pad:
            conv = nn.Conv2d(inputs, width, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.downsample is not None:
            return (y + self.downsample(x)).relu()
        if self.pad:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))
        return (y + x).relu()


@pytest.mark.parametrize("zero_pad", [True, False], ids=["resnet_cifar10", "classification"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_cifar_resnets_of_well_known_repositories_load(zero_pad: bool, prefix: str) -> None:
    from cnnarch.testing import assert_close, calibrate

    theirs = OtherResNet(zero_pad)
    for parameter in theirs.parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    calibrate(theirs, torch.randn(8, 3, 32, 32))
    state: Mapping[str, Tensor] = {prefix + k: v for k, v in theirs.state_dict().items()}
    model = cnnarch.resnet20_cifar(weights=state).eval()
    assert model.options["shortcut"] == ("A" if zero_pad else "B")
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert_close(model(images), theirs(images))
        exported = cnnarch.weights.export(
            model, "pytorch_resnet_cifar10" if zero_pad else "pytorch_classification"
        )
        again = OtherResNet(zero_pad)
        again.load_state_dict(exported)
        assert_close(again.eval()(images), theirs(images))
