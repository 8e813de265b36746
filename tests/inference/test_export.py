"""Exported files compute the same outputs as the network; otherwise no file is written."""

import copy
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.finetuning import convert_norm
from cnnarch.inference._offline import with_core
from cnnarch.inference._tracing import has_free_size
from cnnarch.inference.export import ExportError, export
from cnnarch.inference.fuse import fuse
from cnnarch.preprocessing import Preprocessing
from cnnarch.testing import assert_close, example_images
from tests.small_forms import calibrated, distinct_forms, small_forms

SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}

# Every form is exported in one format; the slow tests cover the other formats.
FORMATS = dict(zip(distinct_forms(), itertools.cycle(("onnx", "openvino"))))


def loaded(path: Path) -> Callable[[Tensor], Tensor]:
    """Load a file with its format's engine and return a function that runs it on images."""
    if path.suffix == ".pt2":
        return torch.no_grad()(torch.export.load(path).module())
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        return lambda x: torch.from_numpy(
            np.asarray(session.run(["logits"], {"images": x.numpy()})[0])
        )
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = with_core(lambda core: core.compile_model(path, "CPU", config))
    return lambda x: torch.from_numpy(compiled({"images": x.numpy()})["logits"])


def run(path: Path, images: Tensor) -> Tensor:
    return loaded(path)(images)


@pytest.fixture
def lenet() -> cnnarch.ImageClassifier:
    return copy.deepcopy(calibrated(cnnarch.lenet5))


def check_file(model: cnnarch.ImageClassifier, path: Path, tolerance: float) -> None:
    """Compare the file with the network for several batch and image sizes, including odd ones."""
    sizes = [example_of(model).shape[2:]]
    if has_free_size(model):
        side = model.min_input_size + 32  # some engines reject the smallest images
        sizes = [(side, side), (side + 33, side + 42)]
    program = loaded(path)
    for n, size in enumerate(sizes, start=3):
        images = 5 * torch.randn(n, model.in_channels, *size)
        with torch.no_grad():
            assert_close(program(images), model(images), tolerance)


def example_of(model: cnnarch.ImageClassifier) -> Tensor:
    """Return non-square images, unless the network requires square ones."""
    return nn.functional.pad(example_images(model), (0, 0 if model.fixed_input_size else 11))


def check_exports(form: str, format: str, folder: Path) -> None:
    model = calibrated(distinct_forms()[form])
    example = None if has_free_size(model) else example_of(model)
    path = export(model, folder / f"net{SUFFIXES[format]}", format, example=example)
    expected = {"net.xml", "net.bin"} if format == "openvino" else {path.name}
    assert {p.name for p in folder.iterdir()} == expected
    check_file(model, path, 1e-4)


@pytest.mark.parametrize(("form", "format"), FORMATS.items())
def test_small_networks_are_exported(form: str, format: str, tmp_path: Path) -> None:
    check_exports(form, format, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "format"), [(o, f) for o in FORMATS for f in SUFFIXES if f != FORMATS[o]]
)
def test_small_networks_are_exported_to_the_other_formats(
    form: str, format: str, tmp_path: Path
) -> None:
    check_exports(form, format, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("format", SUFFIXES)
def test_every_network_is_exported(
    model: cnnarch.ImageClassifier, format: str, tmp_path: Path
) -> None:
    # Untrained networks with hundreds of layers amplify rounding errors.
    path = export(model, tmp_path / f"net{SUFFIXES[format]}", format, tolerance=1e-3)
    check_file(model, path, 1e-3)


def test_the_suffix_determines_the_format(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    assert export(lenet, str(tmp_path / "net.pt2")) == tmp_path / "net.pt2"
    assert torch.export.load(tmp_path / "net.pt2")


def test_a_fused_network_accepts_uint8_images(tmp_path: Path) -> None:
    model = calibrated(partial(cnnarch.lenet5_bn, in_channels=3))
    fused = fuse(model, Preprocessing(32, 32))
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for suffix in SUFFIXES.values():
        path = export(fused, tmp_path / f"net{suffix}")
        assert_close(run(path, images), fused(images), 1e-4)


def test_convolutions_of_normalized_channels_accept_one_image_and_many(tmp_path: Path) -> None:
    """In ConvNeXt, convolutions read maps whose channels are adjacent in memory."""
    model = calibrated(small_forms()["convnext_v2"])
    program = loaded(export(model, tmp_path / "net.pt2"))
    for size in ((1, 3, 32, 32), (1, 3, 65, 96), (3, 3, 96, 65)):
        images = torch.randn(size)
        assert_close(program(images), model(images), 1e-5)


def test_maps_whose_size_onnx_does_not_know_are_not_assumed_to_have_one_size(
    tmp_path: Path,
) -> None:
    """ONNX Runtime reused memory of maps of another size in the groups of GroupNorm."""
    model = convert_norm(copy.deepcopy(calibrated(small_forms()["resnet-residual"])), "group")
    path = export(model, tmp_path / "net.onnx")
    shapes = [value.type.tensor_type.shape.dim for value in onnx.load(path).graph.value_info]
    assert "None" not in {size.dim_param for shape in shapes for size in shape}
    check_file(model, path, 1e-4)


def test_the_mixer_has_a_fixed_image_size_and_a_dynamic_batch_size(tmp_path: Path) -> None:
    model = calibrated(small_forms()["mlp_mixer"])
    path = export(model, tmp_path / "net.onnx")
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [bool(d.dim_param) for d in shape] == [True, False, False, False]
    xml = export(model, tmp_path / "net.xml")
    shape = with_core(lambda core: core.read_model(xml)).input(0).partial_shape
    assert str(shape) == "[?,3,16,16]"


def test_heights_and_widths_can_be_fixed(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    example = torch.zeros(1, 1, 40, 48)
    path = export(lenet, tmp_path / "net.onnx", example=example, dynamic_size=False)
    shape = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in shape] == [0, 1, 40, 48]


def test_networks_with_a_fixed_image_size_are_exported_at_their_own_size(tmp_path: Path) -> None:
    model = cnnarch.mobilenet_v1(width=0.25, num_classes=3, padding="same").eval()
    for preprocessing, side in ((None, 224), (Preprocessing(64, 72), 64)):
        model.preprocessing = preprocessing
        graph = onnx.load(export(model, tmp_path / "net.onnx")).graph
        shape = graph.input[0].type.tensor_type.shape.dim
        assert [d.dim_value or d.dim_param for d in shape] == ["batch", 3, side, side]
    model.builder, model.preprocessing = None, None
    with pytest.raises(TypeError, match="height and width are fixed here: pass example"):
        export(model, tmp_path / "net.onnx")


def test_dynamic_axes_have_names_in_onnx(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    graph = onnx.load(export(lenet, tmp_path / "net.onnx")).graph
    shapes = [v.type.tensor_type.shape.dim for v in (*graph.input, *graph.output)]
    names = [[d.dim_param or d.dim_value for d in shape] for shape in shapes]
    assert names[0] == ["batch", 1, "height", "width"]
    assert names[1][0] == "batch"


def test_networks_from_other_libraries_require_an_example(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(TypeError, match="Sequential does not define its input size"):
        export(model, tmp_path / "net.onnx")
    path = export(model, tmp_path / "net.onnx", example=torch.zeros(1, 3, 8, 8), dynamic_size=True)
    images = torch.randn(3, 3, 20, 11)
    with torch.no_grad():
        assert_close(run(path, images), model(images))


@pytest.mark.filterwarnings("ignore:the forward hooks")
def test_the_network_is_left_unchanged(tmp_path: Path) -> None:
    model = cnnarch.lenet5_bn().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    seen: list[Any] = []
    model.stem.register_forward_hook(lambda *_: seen.append(1))
    state = torch.get_rng_state()
    export(model, tmp_path / "net.pt2")
    assert torch.equal(torch.get_rng_state(), state)
    assert not seen
    assert [module.training for module in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_file_contains_the_metadata(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    lenet.preprocessing = Preprocessing(32, 32, mean=(0.5,), std=(0.25,))
    names = [f"class {i}" for i in range(10)]
    lenet.categories = names
    paths = {suffix: export(lenet, tmp_path / f"net{suffix}") for suffix in SUFFIXES.values()}
    stored = {p.key: p.value for p in onnx.load(paths[".onnx"]).metadata_props}
    assert stored["cnnarch.network"] == "lenet5"
    assert json.loads(stored["cnnarch.categories"]) == names
    assert json.loads(stored["cnnarch.preprocessing"])["std"] == [0.25]
    info = with_core(lambda core: core.read_model(paths[".xml"])).get_rt_info(["cnnarch"])
    assert info["network"] == "lenet5"
    extra = {"cnnarch.json": ""}
    torch.export.load(paths[".pt2"], extra_files=extra)
    assert json.loads(extra["cnnarch.json"])["cnnarch.network"] == "lenet5"


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_a_file_that_differs_is_not_written(
    lenet: cnnarch.ImageClassifier,
    suffix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / f"net{suffix}"
    path.write_text("old")
    other = copy.deepcopy(lenet)
    with torch.no_grad():
        other.head.classifier.bias.add_(0.01)
    module = import_module(
        "cnnarch.inference.export"
    )  # the package attribute with this name is the function
    trace = module.trace
    monkeypatch.setattr(module, "trace", lambda _, *arguments: trace(other, *arguments))
    with pytest.raises(ExportError, match=r"differ by .* on images \(2, 1, 36, 40\)"):
        export(lenet, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "old"


def test_nan_outputs_are_rejected(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    with torch.no_grad():
        next(lenet.parameters()).fill_(torch.nan)
    with pytest.raises(ExportError, match="differ by inf"):
        export(lenet, tmp_path / "net.onnx")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("net.onx", None, r"path must end in one of \.onnx, \.pt2, \.xml, got 'net\.onx'"),
        ("net.onnx", "onx", "format must be one of 'onnx', 'pt2', 'openvino', got 'onx'"),
        ("net.pt2", "onnx", r"onnx files end in \.onnx, got 'net\.pt2'"),
        ("folder.onnx", None, r"folder\.onnx is a folder"),
    ],
)
def test_an_invalid_path_or_format_raises(
    lenet: cnnarch.ImageClassifier, name: str, format: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match=message):
        export(lenet, tmp_path / name, format)
    assert [p.name for p in tmp_path.iterdir()] == ["folder.onnx"]


def test_a_missing_folder_raises(lenet: cnnarch.ImageClassifier, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"the folder .*missing does not exist"):
        export(lenet, tmp_path / "missing" / "net.onnx")


@pytest.mark.parametrize(
    ("suffix", "package"), [(".onnx", "onnxscript"), (".onnx", "onnxruntime"), (".xml", "openvino")]
)
def test_the_error_for_a_missing_package_says_what_to_install(
    lenet: cnnarch.ImageClassifier,
    suffix: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not installed: pip install 'cnnarch\[export\]'"
    with pytest.raises(ImportError, match=message):
        export(lenet, tmp_path / f"net{suffix}")


def test_other_precisions_and_networks_without_values_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be in float32 \(model\.float\(\)\), got torch\.bf"):
        export(cnnarch.lenet5().bfloat16(), tmp_path / "net.onnx")
    with torch.device("meta"):
        empty = cnnarch.lenet5()
    with pytest.raises(ValueError, match="meta device"):
        export(empty, tmp_path / "net.onnx")


@pytest.mark.parametrize("example", [torch.zeros(1, 32, 32), torch.zeros(0, 1, 32, 32), [1, 2]])
def test_an_example_must_be_a_batch_of_images(
    lenet: cnnarch.ImageClassifier, example: Any, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"images of shape \(N, C, H, W\), got"):
        export(lenet, tmp_path / "net.onnx", example=example)


def test_a_network_that_cannot_be_traced_is_named(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"cannot trace Branching at \(2, 3, 8, 8\)"):
        export(Branching(), tmp_path / "net.pt2", example=torch.zeros(2, 3, 8, 8))


def test_export_prints_nothing_and_writes_no_other_files(tmp_path: Path) -> None:
    """The export runs in its own process without sockets; its home folder must stay empty."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    code = f"""
import socket
def refuse(*args, **kwargs): raise OSError("no network here")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import cnnarch
from cnnarch.inference.export import export
for suffix in {[*SUFFIXES.values()]}:
    export(cnnarch.lenet5(), r"{out}/net" + suffix)
"""
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment["PYTHONPATH"] = str(Path(cnnarch.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=out,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not [*home.rglob("*")]
    assert {p.name for p in out.iterdir()} == {"net.onnx", "net.pt2", "net.xml", "net.bin"}
