"""Public calls accept networks and tensors on a GPU, shown with a stand-in for a GPU.

The stand-in computes on the CPU and raises if an operation mixes devices (tests/stand_in_gpu.py).
Each call also runs with "cuda" as PyTorch's default device.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch import dilation, inference
from cnnarch.analysis import stage_shapes, summary
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.testing import assert_close, example_images
from cnnarch.weights import Preprocessing
from tests.small_forms import Build, calibrated
from tests.stand_in_gpu import DEVICE, on_gpu, stand_in_gpu

NORMALIZATION = Preprocessing(32, 32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
Call = Callable[[cnnarch.ImageClassifier, Tensor, Tensor, Path], object]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def test_the_stand_in_detects_mixed_devices() -> None:
    with stand_in_gpu():
        there, here = on_gpu(torch.ones(2, 3)), torch.ones(2, 3)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([here, there]),
            lambda: here[there[:, 0].long()],
            lambda: torch.randn(2, generator=torch.Generator(), device="cuda"),
        ):
            with pytest.raises(RuntimeError, match="expects"):
                mixed()
        assert (there * 2).device == DEVICE
        assert (there * 2).cpu().tolist() == [[2.0] * 3] * 2
        assert there.sum().item() == 6


def test_networks_run_on_a_gpu(distinct_form: Build) -> None:
    """A network is built there, takes weights from the CPU there, and computes there."""
    model = calibrated(distinct_form)
    images = example_images(model)
    expected = model(images)
    with stand_in_gpu():
        with torch.device("cuda"):
            copied = distinct_form().eval()
        assert {t.device for t in tensors_of(copied).values()} == {DEVICE}
        copied.load_state_dict(model.state_dict())
        with torch.inference_mode():
            assert_close(copied(on_gpu(images)).cpu(), expected, 1e-5)


def test_networks_are_fused_and_trained_on_a_gpu(distinct_form: Build) -> None:
    model = calibrated(distinct_form)
    images = example_images(model)
    expected = model(images)
    with stand_in_gpu():
        copied = copy.deepcopy(model).to("cuda")
        fused = inference.fuse(copied)
        assert {t.device for t in tensors_of(fused).values()} == {DEVICE}
        assert_close(fused(on_gpu(images)).cpu(), expected, 1e-4)
        assert {m.device for m in copied.train().forward_stages(on_gpu(images))} == {DEVICE}


def convert_all(model: cnnarch.ImageClassifier, images: Tensor, *_: object) -> list[Tensor]:
    kinds = ("frozen", "group", "sync")
    return [cnnarch.convert_norm(copy.deepcopy(model), k).eval()(images) for k in kinds]


def change_head(model: cnnarch.ImageClassifier, images: Tensor, *_: object) -> Tensor:
    model.reset_classifier(7)
    cnnarch.init_weights(model, "orthogonal")
    cnnarch.param_groups(model, 0.1)
    cnnarch.set_inplace(model)
    return model(images)


def freeze(model: cnnarch.ImageClassifier, images: Tensor, *_: object) -> Tensor:
    cnnarch.freeze(model)
    cnnarch.unfreeze(model)
    model.set_grad_checkpointing(True)
    return model(images)


def dilate(_model: nn.Module, images: Tensor, *_: object) -> Tensor:
    torch.manual_seed(0)
    with torch.device("cpu"):
        model = cnnarch.resnet18(num_classes=3)
    model = model.eval().to(images.device)
    dilation.dilate(model, 8)
    return model.forward_features(images)


def fold_pixels(
    model: cnnarch.ImageClassifier, _images: Tensor, pixels: Tensor, *_: object
) -> Tensor:
    return inference.fuse(model, NORMALIZATION)(pixels)


STAY = {
    "backbone": lambda model, images, *_: list(cnnarch.Backbone(model)(images).values()),
    "convert_norm": convert_all,
    "classifier": change_head,
    "freeze": freeze,
    "dilate": dilate,
    "fuse with preprocessing": fold_pixels,
}
"""Calls whose results stay on the network's device."""


@pytest.mark.parametrize("default", [None, "cuda"], ids=["default cpu", "default cuda"])
@pytest.mark.parametrize("call", STAY.values(), ids=[*STAY])
def test_results_stay_on_the_gpu(call: Call, default: str | None, tmp_path: Path) -> None:
    expected = call(*inputs(torch.device("cpu")), tmp_path)
    with stand_in_gpu():
        given = inputs(DEVICE)
        with torch.device(default) if default else nullcontext():
            found = call(*given, tmp_path)
        for ours, theirs in zip(listed(found), listed(expected), strict=True):
            assert ours.device == DEVICE
            assert_close(ours.cpu(), theirs, 1e-4)
        assert {t.device for t in tensors_of(given[0]).values()} == {DEVICE}


def listed(found: Any) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def inputs(device: torch.device) -> tuple[cnnarch.ImageClassifier, Tensor, Tensor]:
    """Return a network, images and pixels."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 32, 32)
    images = torch.randn(shape, generator=generator)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar().eval()
    if device.type == "cpu":
        return model, images, pixels
    return model.to(device), on_gpu(images), on_gpu(pixels)


def classify(model: Any, _images: Tensor, pixels: Tensor, _folder: Path) -> Any:
    found = inference.Predictor(model, NORMALIZATION)(pixels)
    return torch.tensor([p.probabilities for p in found], device="cpu")


def embed(model: Any, images: Tensor, pixels: Tensor, folder: Path) -> Any:
    output = folder / "features.npy"
    found = [
        cnnarch.embed(model, images),
        cnnarch.embed(model, pixels, preprocessing=NORMALIZATION),
        cnnarch.embed(model, images, output=output),
        cnnarch.embed(model, images, output=output),  # loads the file
    ]
    return torch.cat([torch.from_numpy(each.features.copy()) for each in found])


def load_elsewhere(model: Any, images: Tensor, _pixels: Tensor, folder: Path) -> Any:
    model.save_pretrained(folder / "network")
    loaded = cnnarch.from_pretrained(folder / "network").eval().to(images.device)
    return loaded(images).cpu()


def smallest(images: Tensor) -> nn.Module:
    """Return a network that converts quickly, on the device of the images."""
    torch.manual_seed(0)
    with torch.device("cpu"):
        model = CifarResNet(1)
    return model.eval().to(images.device)


def export(_model: Any, images: Tensor, _pixels: Tensor, folder: Path) -> Any:
    path = inference.export(smallest(images), folder / "network.pt2", example=images)
    with torch.device("cpu"):
        return torch.export.load(path).module()(images.cpu())


def quantize(_model: Any, images: Tensor, *_: object) -> Any:
    pytest.importorskip("nncf")
    openvino = pytest.importorskip("openvino")
    graph = inference.quantize(smallest(images), images.repeat(4, 1, 1, 1))
    run = openvino.compile_model(graph, "CPU")
    return torch.from_numpy(run(images.cpu().numpy())[0])


def feature_maps(model: Any, images: Tensor, *_: object) -> Any:
    return len(cnnarch.viz.feature_maps(model, images[:1]).axes)


def show_predictions(model: Any, images: Tensor, *_: object) -> Any:
    figure = cnnarch.viz.predictions(model, images, preprocessing=NORMALIZATION)
    return [axes.get_title() for axes in figure.axes]


COME_BACK = {
    "embed": embed,
    "Predictor": classify,
    "save_pretrained": load_elsewhere,
    "export": export,
    "quantize": quantize,
    "stage_shapes": lambda model, *_: sorted(stage_shapes(model, (3, 32, 32)).items()),
    "summary": lambda model, *_: str(summary(model)),
    "feature_maps": feature_maps,
    "predictions": show_predictions,
    "filters": lambda model, *_: len(cnnarch.viz.filters(model).axes),
}
"""Calls whose results are on the CPU."""
SLOW = ("export", "quantize")  # run with one default device: the one that revealed more mistakes


@pytest.mark.parametrize(
    ("call", "default"),
    [
        pytest.param(COME_BACK[name], default, id=f"{name}-default {default}")
        for name in COME_BACK
        for default in ("cpu", "cuda")
        if name not in SLOW or default == "cuda"
    ],
)
def test_results_come_back_to_the_cpu(call: Call, default: str, tmp_path: Path) -> None:
    expected = call(*inputs(torch.device("cpu")), tmp_path)
    with stand_in_gpu():
        given = inputs(DEVICE)
        with torch.device(default):
            found = call(*given, tmp_path)
        assert_same(found, expected)
        assert {t.device for t in tensors_of(given[0]).values()} == {DEVICE}


def assert_same(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    if isinstance(expected, Tensor):
        assert_close(found, expected, tolerance)
    else:
        assert found == expected


@pytest.mark.parametrize("default", [None, "cuda"], ids=["default cpu", "default cuda"])
def test_layouts_are_converted_on_the_gpu(default: str | None) -> None:
    """This layout reorders channels."""
    with stand_in_gpu():
        model, images, _ = inputs(DEVICE)
        with torch.device(default) if default else nullcontext():
            theirs = cnnarch.weights.export(model, "pytorch_resnet_cifar10")
            assert {tensor.device for tensor in theirs.values()} == {DEVICE}
            del theirs[next(name for name in theirs if name.endswith("num_batches_tracked"))]
            ours = cnnarch.weights.port(theirs, model)
        assert {tensor.device for tensor in ours.values()} == {DEVICE}
        with torch.inference_mode():
            expected = model(images).cpu()
            model.load_state_dict(ours)
            assert_close(model(images).cpu(), expected, 1e-5)


@pytest.mark.parametrize("default", [None, "cuda"], ids=["default cpu", "default cuda"])
def test_weights_are_loaded_straight_to_the_default_device(default: str | None) -> None:
    saved = cnnarch.resnet20_cifar().state_dict()
    del saved["stages.0.0.branch.conv1.norm.num_batches_tracked"]  # not in old checkpoints
    with stand_in_gpu(), torch.device(default) if default else nullcontext():
        for options in ({}, {"num_classes": 7}, {"in_channels": 1}):
            model = cnnarch.resnet20_cifar(weights=saved, **options)
            kinds = {t.device.type for t in tensors_of(model).values()}
            assert kinds == {default or "cpu"}
        on_cuda = cnnarch.resnet20_cifar().to("cuda")
        cnnarch.weights.load(on_cuda, saved)
        assert {t.device for t in tensors_of(on_cuda).values()} == {DEVICE}
