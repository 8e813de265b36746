"""int8 loses almost no accuracy, and the same images yield the same model."""

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference._offline import import_nncf, with_core
from cnnarch.inference.export import to_openvino
from cnnarch.inference.fuse import fuse
from cnnarch.inference.quantize import quantize
from cnnarch.models.mlp_mixer import MLPMixer
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.preprocessing import Preprocessing
from cnnarch.testing import calibrate
from cnnarch.training import load_data

module = sys.modules[quantize.__module__]  # the package attribute with this name is the function
FASHION = Path("/usr/share/datasets/fashion-mnist")


def run_on_openvino(graph: Any) -> Callable[[Tensor], Tensor]:
    compiled = with_core(lambda core: core.compile_model(graph, "CPU"))
    return lambda images: torch.from_numpy(compiled(images.numpy())[0]).clone()


def quantized_layers(graph: Any) -> int:
    return sum(op.get_type_name() == "FakeQuantize" for op in graph.get_ops())


def smooth(count: int, side: int = 32) -> Tensor:
    """Return images whose adjacent pixels are similar, as in photographs."""
    return nn.functional.interpolate(torch.randn(count, 3, 8, 8), size=side, mode="bilinear")


@pytest.mark.skipif(not FASHION.is_dir(), reason="Fashion-MNIST is not on this machine")
def test_int8_keeps_the_accuracy_of_a_trained_network() -> None:
    """At most half a percentage point of accuracy is lost on 10,000 test images."""
    model = cnnarch.lenet5(weights="FASHION_MNIST").eval()
    assert model.preprocessing is not None
    data = load_data("fashion_mnist", root=FASHION, image_resolution=model.preprocessing.crop_size)
    data = data.prepared(model.preprocessing)
    int8 = run_on_openvino(quantize(model, data.train.inputs(torch.arange(256))))
    right = torch.zeros(2)
    with torch.no_grad():
        for indices in torch.arange(len(data.test)).split(500):
            images, labels = data.test.inputs(indices), data.test.labels[indices]
            for i, run in enumerate((model, int8)):
                right[i] += (run(images).argmax(1) == labels).sum()
    float32, lossy = 100 * right / len(data.test)
    assert float32 > 85
    assert float32 - lossy <= 0.5


@pytest.mark.parametrize(
    "build",
    [
        lambda: CifarResNet(1),
        lambda: MLPMixer(2, 8, 32, 64, 16, num_classes=10, image_size=32),
    ],
)
def test_quantized_networks_run_with_any_batch_size(
    build: Callable[[], cnnarch.ImageClassifier],
) -> None:
    model = build()
    images = smooth(32)
    calibrate(model, images)
    graph = quantize(model, images[:16])
    assert quantized_layers(graph) > 5
    int8 = run_on_openvino(graph)
    with torch.no_grad():
        expected = model(images)
    error = (int8(images) - expected).norm() / expected.norm()
    assert 0 < error < 0.2
    assert int8(images[:1]).shape == (1, 10)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_network_is_quantized(model: cnnarch.ImageClassifier) -> None:
    side = model.min_input_size if model.fixed_input_size else max(model.min_input_size, 64)
    images = torch.randn(8, model.in_channels, side, side)
    graph = quantize(model, images)
    assert quantized_layers(graph) > 0
    logits = run_on_openvino(graph)(images)
    assert logits.shape == (8, model.num_classes)
    assert logits.isfinite().all()


class Shortcut(nn.Module):
    """Three convolutions; the last one reads the sum of the first two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.third((x + self.second(x)).relu()).mean((2, 3))


def test_the_memory_for_accurate_bias_correction_is_estimated() -> None:
    """Three stored inputs of 4 x 8 x 8 floats: the first layer's output twice, the second's once.

    NNCF stores layer inputs for a fifth of the images.
    """
    images = torch.zeros(20, 4, 8, 8)
    graph = to_openvino(Shortcut(), images[:2], None)
    assert module._correction_bytes(graph, images) == pytest.approx(3 * 4 * 8 * 8 * 4 * 0.2 * 20)


@pytest.mark.parametrize(("limit", "is_fast"), [(2**31, False), (0, True)])
def test_accurate_bias_correction_is_used_if_memory_allows(
    monkeypatch: pytest.MonkeyPatch, limit: int, is_fast: bool
) -> None:
    nncf = import_nncf()
    real, requested = nncf.quantize, []

    def spy(*inputs: Any, **options: Any) -> Any:
        requested.append(options["fast_bias_correction"])
        return real(*inputs, **options)

    monkeypatch.setattr(nncf, "quantize", spy)
    monkeypatch.setattr(module, "_CORRECTION_LIMIT", limit)
    quantize(Shortcut(), torch.randn(8, 4, 8, 8))
    assert requested == [is_fast]


@pytest.mark.parametrize(("vnni", "largest"), [(False, 64), (True, 127)])
def test_weights_use_half_the_range_if_sums_would_overflow(
    monkeypatch: pytest.MonkeyPatch, vnni: bool, largest: int
) -> None:
    """Without VNNI, two products of activation and weight are added in 16 bits: 2 * 255 * 64."""
    assert 2 * 255 * 64 < 2**15 < 2 * 255 * 127
    monkeypatch.setattr(module, "has_vnni", lambda: vnni)
    graph = quantize(cnnarch.lenet5(in_channels=3).eval(), smooth(8))
    constants = [op for op in graph.get_ops() if op.get_type_name() == "Constant"]
    weights = [op.data for op in constants if op.get_element_type().get_type_name() == "i8"]
    assert max(np.abs(values.astype(int)).max() for values in weights) == largest


def test_the_same_images_yield_the_same_model_and_random_states_are_kept() -> None:
    model = cnnarch.lenet5()
    images = torch.randn(32, 1, 32, 32)
    random.seed(5)
    np.random.seed(5)
    first = run_on_openvino(quantize(model, images))(images)
    drawn = random.random(), np.random.rand()
    batches = (batch for batch in images.split(10))
    second = run_on_openvino(quantize(model, batches))(images)
    assert torch.equal(first, second)
    random.seed(5)
    np.random.seed(5)
    assert drawn == (random.random(), np.random.rand())


def test_the_model_is_left_unchanged_and_nothing_is_printed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model = cnnarch.lenet5().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    quantize(model, torch.randn(8, 1, 32, 32))
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert capfd.readouterr() == ("", "")


def test_a_fused_network_in_int8_also_accepts_uint8() -> None:
    model = CifarResNet(1)
    preprocessing = Preprocessing(32, 32)
    images = (smooth(32) * 50 + 128).clamp(0, 255).to(torch.uint8)
    normal = (images / 255 - torch.tensor(preprocessing.mean).view(3, 1, 1)) / torch.tensor(
        preprocessing.std
    ).view(3, 1, 1)
    calibrate(model, normal)
    with torch.no_grad():
        expected = model(normal)
    found = run_on_openvino(quantize(fuse(model, preprocessing), images))(images)
    assert (found - expected).norm() / expected.norm() < 0.2


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        (torch.zeros(7, 1, 32, 32), ValueError, "at least 8 images, got 7"),
        ([], ValueError, "at least 8 images, got 0"),
        ([torch.zeros(8, 1, 32, 32), torch.zeros(8, 1, 40, 32)], ValueError, "the same shape, got"),
        (torch.zeros(1, 32, 32), TypeError, r"\(N, C, H, W\), got \(1, 32, 32\)"),
        ([["a.png"]], TypeError, r"\(N, C, H, W\), got list"),
    ],
)
def test_invalid_calibration_raises(calibration: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        quantize(cnnarch.lenet5(), calibration)
