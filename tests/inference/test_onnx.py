"""ONNX files: PyTorch's older exporter, float16 and opsets, run by ONNX Runtime."""

import copy
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import load_optimized, optimize
from cnnarch.inference._offline import with_core
from cnnarch.inference.export import ExportError, export
from cnnarch.inference.fuse import fuse
from cnnarch.preprocessing import Preprocessing
from cnnarch.testing import assert_close, example_images
from tests.small_forms import MODULES, calibrated, small_forms


def first_forms() -> Iterable[str]:
    """Return the name of one small form of each family."""
    families = [module.removeprefix("test_") for module in MODULES]
    return [next(name for name in small_forms() if name.split("-")[0] == f) for f in families]


def run_onnx(content: bytes, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])


@pytest.mark.parametrize("form", first_forms())
def test_the_exporter_without_dynamo_supports_every_family(form: str) -> None:
    model = calibrated(small_forms()[form])
    images = example_images(model)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter is deprecated
        torch.onnx.export(model, (images,), file, dynamo=False)
    with torch.no_grad():
        assert_close(run_onnx(file.getvalue(), images), model(images), 1e-4)


@pytest.fixture
def model() -> cnnarch.ImageClassifier:
    return copy.deepcopy(calibrated(cnnarch.resnet20_cifar))


def test_half_stores_and_computes_in_float16(
    model: cnnarch.ImageClassifier, tmp_path: Path
) -> None:
    path = export(model, tmp_path / "net.onnx", half=True)
    whole = export(model, tmp_path / "whole.onnx")
    file = onnx.load(path)
    assert {p.key: p.value for p in file.metadata_props}["cnnarch.network"] == "resnet20_cifar"
    kinds = {w.data_type for w in file.graph.initializer if len(w.dims) == 4}
    assert kinds == {onnx.TensorProto.FLOAT16}
    ends = (*file.graph.input, *file.graph.output)
    assert {v.type.tensor_type.elem_type for v in ends} == {onnx.TensorProto.FLOAT}
    assert path.stat().st_size < 0.6 * whole.stat().st_size + 100_000  # the rest is the graph
    images = example_images(model)
    with torch.no_grad():
        assert_close(run_onnx(path.read_bytes(), images), model(images), 3e-2)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_half_file_runs_in_openvino(model: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    path = export(model, tmp_path / "net.onnx", half=True)
    compiled = with_core(lambda core: core.compile_model(path, "CPU"))
    images = example_images(model)
    with torch.no_grad():
        assert_close(torch.from_numpy(compiled(images.numpy())[0]), model(images), 3e-2)


def test_a_half_file_accepts_uint8_images(tmp_path: Path) -> None:
    network = calibrated(small_forms()["resnet-plain"])
    fused = fuse(network, Preprocessing(64, 64))
    path = export(fused, tmp_path / "net.onnx", half=True)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert_close(run_onnx(path.read_bytes(), images), fused(images), 3e-2)


def test_values_outside_the_range_of_float16_are_rejected(tmp_path: Path) -> None:
    """ONNX Runtime on the CPU computes 1e5 / 1e3 in float32, but a GPU returns infinity."""
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    network[0].weight.data.fill_(1e3)
    network[1].weight.data.fill_(1e-3)
    example = torch.full((1, 1, 8, 8), 100.0)
    with pytest.raises(
        ExportError, match=r"layer '0' reaches 1\.0e\+05, but float16 ends at 65504"
    ):
        export(network, tmp_path / "net.onnx", example=example, half=True)
    network[0].weight.data.fill_(1e5)
    with pytest.raises(ValueError, match=r"0\.weight contains 1\.0e\+05, but float16 ends"):
        export(network, tmp_path / "net.onnx", example=example * 0 + 1e-3, half=True)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_the_file_has_the_requested_opset(opset: int, tmp_path: Path) -> None:
    model = calibrated(cnnarch.lenet5_bn)
    path = export(model, tmp_path / "net.onnx", half=opset == 18, opset=opset)
    assert [e.version for e in onnx.load(path).opset_import if not e.domain] == [opset]


@pytest.mark.parametrize("opset", [11, 17, 99])
def test_an_opset_that_the_exporter_cannot_write_is_rejected(opset: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"with opset {opset} \(it wrote 18\)"):
        export(cnnarch.lenet5(), tmp_path / "net.onnx", opset=opset)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("opset", ["18", 18.0, True, 0, -1])
def test_an_opset_must_be_a_positive_integer(opset: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="opset must be an integer of at least 1, got"):
        export(cnnarch.lenet5(), tmp_path / "net.onnx", opset=opset)


def test_half_must_be_a_bool(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="half must be True or False, got 1"):
        export(cnnarch.lenet5(), tmp_path / "net.onnx", half=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".pt2", ".xml"])
def test_other_formats_have_neither_option(suffix: str, tmp_path: Path) -> None:
    for option in ("half", "opset"):
        with pytest.raises(
            ValueError, match=rf"{option} is an option of ONNX files, got a \{suffix}"
        ):
            export(cnnarch.lenet5(), tmp_path / f"net{suffix}", **{option: option == "half" or 18})


@pytest.mark.parametrize("half", [False, True])
def test_a_network_in_float16_is_rejected(half: bool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"float32 .* got torch\.float16; half=True then writes"):
        export(cnnarch.lenet5().half(), tmp_path / "net.onnx", half=half)


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrappers_are_removed(wrap: Any, tmp_path: Path) -> None:
    path = export(wrap(cnnarch.lenet5()), tmp_path / "net.onnx", opset=18)
    facts = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert facts["cnnarch.network"] == "lenet5"


def test_networks_that_cannot_be_exported_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        export("lenet5", path)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must return a tensor, got OrderedDict"):
        export(cnnarch.get_backbone("resnet20_cifar"), path)
    partly = cnnarch.lenet5_bn()
    partly.register_buffer("extra", torch.zeros(1, device="meta"))
    with pytest.raises(ValueError, match="meta device"):
        export(partly, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but still in use
        quantized = torch.ao.quantization.quantize_dynamic(cnnarch.lenet5(), {nn.Linear})
    with pytest.raises(ValueError, match=r"layer 'head\.\S+' is quantized"):
        export(quantized, path)


def test_dynamic_size_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with pytest.raises(TypeError, match="dynamic_size must be True, False or None, got 'yes'"):
        export(cnnarch.lenet5(), path, dynamic_size="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="MLPMixer accepts one image size"):
        export(small_forms()["mlp_mixer"](), path, dynamic_size=True)
    padded = cnnarch.mobilenet_v1(width=0.25, padding="same")
    with pytest.raises(ValueError, match='MobileNetV1 has padding "same"'):
        export(padded, path, dynamic_size=True)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [(torch.uint8, "accepts float32 images, got a uint8"), (torch.half, "float32 or uint8, got")],
)
def test_the_example_has_the_dtype_of_the_images(
    dtype: torch.dtype, message: str, tmp_path: Path
) -> None:
    example = torch.zeros(1, 1, 32, 32, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        export(cnnarch.lenet5(), tmp_path / "net.onnx", example=example)


def test_loaders_of_networks_say_what_an_exported_file_is(tmp_path: Path) -> None:
    path = export(cnnarch.lenet5(), tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=r"net\.onnx is a file, .* ONNX Runtime"):
        load_optimized(path)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        optimize(path, torch.zeros(1, 1, 32, 32))  # type: ignore[arg-type]
