"""Engines stay offline, leave no files behind, and work in threads and worker processes."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Optimized, load_optimized, optimize
from cnnarch.inference._tracing import trace
from cnnarch.inference.engines import ENGINES, Workload
from cnnarch.inference.engines._pt2e import calibrated_ranges, quantized
from cnnarch.models.densenet import DenseNet
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.testing import assert_close, calibrate
from tests.forks import Forks
from tests.inference.engines import COMPILER, INDUCTOR

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

QUICK = ["eager", "openvino", "onnxruntime"]
NO_TORCHAO = find_spec("torchao") is None

# Make sockets raise, and keep all folders that a library may write to inside the test's folder.
OFFLINE = """
import os, socket, sys
from importlib.util import find_spec

def refuse(*arguments, **options):
    raise OSError("a library tried to reach the network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch, cnnarch
from cnnarch.testing import calibrate
from cnnarch.inference import load_optimized, optimize

torch.manual_seed(0)
model = cnnarch.lenet5()
images = torch.randn(8, 1, 32, 32)
calibrate(model, images)
for backend in sys.argv[1:]:
    int8 = find_spec({"inductor": "torchao", "openvino": "nncf"}.get(backend, "missing"))
    for precision in ["float32", "int8"] if int8 else ["float32"]:
        options = {"backend": backend, "precision": precision, "budget_s": 1, "tolerance": 0.5}
        optimized = optimize(model, images, calibration=images, **options)
        optimized(images[:3])
        optimized.close()
print("done", [name for name in os.environ if name.endswith("_CACHE_DIR")])
"""


@pytest.fixture(scope="module")
def model() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.lenet5_bn(in_channels=3)
    calibrate(model, images(8))
    return model


Engine = Callable[[str], Optimized]


@pytest.fixture(scope="module")
def engine(model: cnnarch.ImageClassifier) -> Iterator[Engine]:
    """Return a function that prepares a named engine for `images(2)`, once for all tests."""
    prepared: dict[str, Optimized] = {}

    def find(backend: str) -> Optimized:
        if backend not in prepared:
            prepared[backend] = optimize(model, images(2), backend=backend, budget_s=1)
        return prepared[backend]

    yield find
    for optimized in prepared.values():
        optimized.close()


def images(batch: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 3, side, side, generator=generator)


def run_offline(folder: Path, *backends: str) -> subprocess.CompletedProcess[str]:
    folders = {"HOME": folder / "home", "TMPDIR": folder / "tmp"}
    for place in (*folders.values(), folder / "here"):
        place.mkdir()
    folders["HOME"].chmod(0o500)
    root = str(Path(cnnarch.__file__).parent.parent)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, *backends],
        env=environment | {name: str(place) for name, place in folders.items()},
        cwd=folder / "here",
        capture_output=True,
        text=True,
        timeout=280,
    )


def left_behind(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] + [
        str(path.relative_to(folder)) for path in (folder / "tmp").iterdir()
    ]


def test_no_engine_accesses_the_network_or_leaves_a_file(tmp_path: Path) -> None:
    done = run_offline(tmp_path, *QUICK)
    assert done.stdout.strip() == "done []", done.stderr
    assert done.stderr == ""
    assert left_behind(tmp_path) == []


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_inductor_leaves_no_file(tmp_path: Path) -> None:
    done = run_offline(tmp_path, "inductor")
    assert done.stdout.strip() == "done []", done.stderr
    assert left_behind(tmp_path) == []


def test_telemetry_is_off_even_if_the_libraries_were_imported_earlier(forks: Forks) -> None:
    code = """
import openvino, onnxruntime, nncf
from openvino.tools.ovc import convert_impl, telemetry_stub
from nncf.telemetry.wrapper import telemetry
from cnnarch.inference._offline import import_nncf, import_onnxruntime, import_openvino

assert import_openvino() is openvino
assert import_onnxruntime() is onnxruntime
assert import_nncf() is nncf
print(convert_impl.tm is telemetry_stub, getattr(telemetry, "_impl", None))
"""
    (done,) = forks.run(code, {"ORT_DISABLE_TELEMETRY": "1", "CI": "1"})
    assert done.out.split() == ["True", "None"], done.err


def test_importing_inference_imports_no_engine(forks: Forks) -> None:
    engines = ["openvino", "onnxruntime", "nncf", "onnx", "onnxscript", "PIL", "torch._inductor"]
    code = f"import sys, cnnarch.inference; print([m for m in {engines} if m in sys.modules])"
    (done,) = forks.run(code)
    assert (done.out.strip(), done.err) == ("[]", "")


def test_the_error_for_a_missing_engine_says_what_to_install(forks: Forks) -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["openvino", "onnxruntime", "nncf", "torchao"]))
import torch, cnnarch
from cnnarch.inference import optimize
from cnnarch.testing import calibrate
model, x = cnnarch.lenet5(), torch.randn(2, 1, 32, 32)
for backend in ("openvino", "onnxruntime"):
    try: optimize(model, x, backend=backend)
    except ValueError as error: print(error)
print([row.verdict for row in optimize(model, x, budget_s=1).report.candidates][2:4])
try: optimize(model, x, backend="inductor", precision="int8", calibration=x)
except ValueError as error: print(error)
"""
    (done,) = forks.run(code)
    lines = done.out.splitlines()
    assert len(lines) == 4, done.err
    assert lines[3].startswith("backend 'inductor' cannot be used: torchao is not installed")
    assert lines[0].startswith("backend 'openvino' cannot be used:")
    assert lines[1].startswith("backend 'onnxruntime' cannot be used:")
    assert all(line.count("pip install 'cnnarch[export]'") >= 1 for line in lines)


def test_inductor_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none() -> str:
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    why = ENGINES["inductor"].why_unavailable("float32", torch.device("cpu"))
    assert why == "no C++ compiler is installed"


def test_only_pytorch_engines_run_on_a_gpu() -> None:
    gpu = torch.device("cuda")
    for name in ("openvino", "onnxruntime"):
        why = ENGINES[name].why_unavailable("float32", gpu)
        assert why == "only runs on the CPU, the example is on cuda"


@pytest.mark.parametrize("backend", [*QUICK, INDUCTOR])
def test_threads_can_share_an_engine(engine: Engine, backend: str) -> None:
    optimized = engine(backend)
    batches = [images(1 + i % 5) for i in range(40)]
    for _ in range(2):  # inductor compiles a shape on its third call
        alone = [optimized(x) for x in batches]
    start = threading.Barrier(8)

    def work(x: Tensor) -> Tensor:
        start.wait(30)  # all eight threads start together
        return optimized(x)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, batches))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("backend", QUICK)
def test_logits_are_not_overwritten_by_the_next_call(engine: Engine, backend: str) -> None:
    optimized = engine(backend)
    first = optimized(images(2))
    kept = first.clone()
    optimized(-images(2))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("backend", QUICK)
def test_images_may_have_any_strides(engine: Engine, backend: str) -> None:
    optimized, x = engine(backend), images(2)
    expected = optimized(x)
    flipped = x.flip(-1).contiguous().flip(-1).requires_grad_()
    for same in (x.to(memory_format=torch.channels_last), x.mT.contiguous().mT, flipped):
        assert torch.equal(optimized(same), expected)


@pytest.mark.parametrize("backend", [*QUICK, INDUCTOR])
def test_the_callers_autocast_has_no_effect(engine: Engine, backend: str) -> None:
    optimized = engine(backend)
    expected = optimized(images(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(optimized(images(2)), expected)


@pytest.mark.parametrize("backend", QUICK)
def test_a_different_image_size_is_prepared_on_first_use(
    model: cnnarch.ImageClassifier, backend: str
) -> None:
    with optimize(model, images(1), backend=backend, budget_s=1) as optimized:
        for side in (40, 33, 40):
            x = images(2, side)
            assert_close(optimized(x), model(x), 1e-4)


@pytest.mark.parametrize("backend", QUICK)
def test_an_unpickled_engine_computes_the_same_logits(engine: Engine, backend: str) -> None:
    optimized = engine(backend)
    unpickled: Optimized = pickle.loads(pickle.dumps(optimized))
    assert torch.equal(unpickled(images(2)), optimized(images(2)))
    assert torch.equal(unpickled(images(3)), optimized(images(3)))
    assert unpickled.report == optimized.report
    assert unpickled.backend == backend


def _compute(optimized: Optimized, x: Tensor, send: Callable[[bytes], None]) -> None:
    send(pickle.dumps([optimized(x).numpy(), optimized(x[:1]).numpy(), torch.get_num_threads()]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("backend", "method"),
    [
        *((backend, "fork") for backend in QUICK),
        ("openvino", "spawn"),
        pytest.param("onnxruntime", "spawn", marks=pytest.mark.slow),
    ],
)
def test_workers_compute_the_same_logits(
    model: cnnarch.ImageClassifier, backend: str, method: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not {method}")
    context = multiprocessing.get_context(method)
    with optimize(model, images(4), backend=backend, budget_s=1) as optimized:
        expected = optimized(images(4))
        queue = context.SimpleQueue()
        worker = context.Process(target=_compute, args=(optimized, images(4), queue.put))  # type: ignore[attr-defined]
        worker.start()
        worker.join(120)
        if worker.exitcode is None:
            worker.kill()
        assert worker.exitcode == 0, "the worker hangs"
        found, first, threads = pickle.loads(queue.get())
        assert_close(torch.from_numpy(found), expected)
        assert_close(torch.from_numpy(first), expected[:1], 1e-4)
        assert threads == 1 or method == "spawn"
        assert torch.equal(optimized(images(4)), expected)  # the parent still works


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_inductor_compiles_the_example_and_frequent_shapes(
    model: cnnarch.ImageClassifier,
) -> None:
    with optimize(model, images(2), backend="inductor", budget_s=1) as optimized:
        compiled = optimized._engine._prepared  # type: ignore[attr-defined]
        assert set(compiled) == {(2, 3, 32, 32)}
        for _ in range(3):
            assert_close(optimized(images(3)), model(images(3)), 1e-4)
        assert set(compiled) == {(2, 3, 32, 32), (3, 3, 32, 32)}
        assert_close(optimized(images(3)), model(images(3)), 1e-4)
        unpickled: Optimized = pickle.loads(pickle.dumps(optimized))
        assert_close(unpickled(images(2)), optimized(images(2)))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_inductor_freezes_the_weights(
    model: cnnarch.ImageClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As graph inputs, weights would be reordered on each call and could still change."""
    modules = []

    def keep(model: nn.Module, two: Tensor, free_size: bool) -> Any:
        modules.append(trace(model, two, free_size))
        return modules[-1]

    monkeypatch.setattr("cnnarch.inference.engines.inductor.trace", keep)
    with optimize(model, images(2), backend="inductor", budget_s=1) as optimized:
        expected = optimized(images(2))
        for tensor in modules[0].state_dict.values():
            if tensor.dim() == 4:  # biases are used in place
                tensor.data.zero_()
        assert torch.equal(optimized(images(2)), expected)


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_inductor_compiles_once_per_shape_for_any_strides() -> None:
    torch.manual_seed(0)
    model = cnnarch.lenet5()
    x = torch.randn(2, 1, 32, 32)
    calibrate(model, x)
    with optimize(model, x, backend="inductor", budget_s=1) as optimized:
        expected = optimized(x)
        compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert compiled > 0
        others = (x.mT.contiguous().mT, x.as_strided(x.shape, (1024, 1, 32, 1)))
        for same in others:
            assert torch.equal(optimized(same), expected)
        for mode in (torch.inference_mode, torch.no_grad):  # set by the caller
            with mode():
                assert torch.equal(optimized(x), expected)
        with torch.inference_mode():
            assert torch.equal(optimized(x.clone()), expected)
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            assert_close(optimized(x), expected, 1e-5)  # the order of additions may change
        finally:
            torch.set_num_threads(threads)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_eager_replaces_inductor_in_a_forked_worker(
    model: cnnarch.ImageClassifier,
) -> None:
    with optimize(model, images(4), backend="inductor", budget_s=1) as optimized:
        context = multiprocessing.get_context("fork")
        queue = context.SimpleQueue()
        worker = context.Process(target=_compute, args=(optimized, images(4), queue.put))
        worker.start()
        worker.join(60)
        assert worker.exitcode == 0
        assert_close(torch.from_numpy(pickle.loads(queue.get())[0]), optimized(images(4)))


def blurred(batch: int) -> Tensor:
    """Return images whose adjacent pixels are similar, as in photographs."""
    generator = torch.Generator().manual_seed(batch)
    rough = torch.randn(batch, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(rough, size=32, mode="bilinear")


@pytest.mark.skipif(NO_TORCHAO, reason="torchao is not installed")
@pytest.mark.parametrize(
    "build",
    [partial(CifarResNet, 1), partial(DenseNet, 8, (2, 2), small_images=True)],
    ids=["resnet", "densenet"],
)
def test_torchao_quantizes_again_from_saved_ranges_alone(
    build: Callable[[], cnnarch.ImageClassifier],
) -> None:
    """DenseNet contains norms that cannot be folded: other layers read its first convolution."""
    torch.manual_seed(0)
    model = build()
    calibrate(model, blurred(8))
    workload = Workload(model, blurred(2), 1, blurred(64).split(16))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = calibrated_ranges(workload)
    graph = quantized(workload, parts)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in model.modules())
    calls = [str(node.target) for node in graph.graph.nodes]
    weights = sum("dequantize_per_channel" in call for call in calls)
    assert weights == convolutions + 1  # plus the classifier
    x = blurred(5)
    expected = model(x)
    error = (graph(x) - expected).norm() / expected.norm()
    assert 0 < error < 0.2
    workload.calibration = ()
    with torch.no_grad():
        assert torch.equal(quantized(workload, parts)(x), graph(x))
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.skipif(NO_TORCHAO, reason="torchao is not installed")
def test_logits_are_not_rounded_to_8_bits() -> None:
    """NiN's logits are averages over maps, which torchao would round to 256 values."""
    torch.manual_seed(0)
    model = cnnarch.nin_cifar()
    x = blurred(40)
    calibrate(model, x[:8])
    workload = Workload(model, x[:2], 1, x.split(20))
    with torch.no_grad():
        logits = quantized(workload, calibrated_ranges(workload))(x)
    assert logits.unique().numel() > 256


@pytest.mark.skipif(NO_TORCHAO, reason="torchao is not installed")
def test_compiled_int8_that_differs_from_its_graph_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The example's shape raises an error; other shapes fall back to the graph."""
    wrong: list[int] = []

    def compile_wrongly(engine: Any, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        graph = engine._eager.model
        return (lambda images: 2 * graph(images)) if shape[0] in wrong else graph

    monkeypatch.setattr("cnnarch.inference.engines.inductor.Inductor._compile", compile_wrongly)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)).eval()
    workload = Workload(model, blurred(2), 1, (blurred(16),))
    engine = ENGINES["inductor"](workload, "int8")
    wrong += [2, 3]
    for _ in range(4):
        assert_close(engine(blurred(3)), model(blurred(3)), 0.1)
    with pytest.raises(ValueError, match="compiled network are off by"):
        ENGINES["inductor"](Workload(model, blurred(2), 1, (blurred(16),)), "int8")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(NO_TORCHAO or not COMPILER, reason="no torchao or compiler"),
            ],
        ),
        pytest.param("openvino", marks=pytest.mark.skipif(not find_spec("nncf"), reason="no NNCF")),
    ],
)
def test_int8_is_restored_without_calibration_images(
    model: cnnarch.ImageClassifier, backend: str, tmp_path: Path
) -> None:
    x = blurred(4)
    options = {"backend": backend, "precision": "int8", "calibration": blurred(64)}
    with optimize(model, x, budget_s=1, **options) as optimized:
        logits = optimized(x)
        expected = model(x)
        assert (logits - expected).norm() / expected.norm() < 0.2
        assert not torch.allclose(logits, expected, rtol=0, atol=1e-5)  # int8 was actually used
        assert_close(optimized(x[:3]), logits[:3], 3e-2)  # inductor runs it in eager mode at first
        with pytest.raises(ValueError, match="calibrated for images"):
            optimized(images(1, 40))
        optimized.save(tmp_path / "fast")
        with load_optimized(tmp_path / "fast", rebuild=False) as again:
            assert (again.backend, again.precision) == (backend, "int8")
            assert_close(again(x), logits, 1e-4)
        assert_close(pickle.loads(pickle.dumps(optimized))(x), logits, 1e-4)
        queue = multiprocessing.get_context("fork").SimpleQueue()
        worker = multiprocessing.get_context("fork").Process(
            target=_compute, args=(optimized, x, queue.put)
        )
        worker.start()
        worker.join(120)
        assert worker.exitcode == 0
        assert_close(torch.from_numpy(pickle.loads(queue.get())[0]), logits, 3e-2)


@pytest.mark.slow
@pytest.mark.skipif(NO_TORCHAO or not COMPILER, reason="no torchao or no C++ compiler")
def test_int8_keeps_the_last_window_of_a_pool_with_ceil_mode() -> None:
    """GoogLeNet and NiN use `ceil_mode`; inductor ignores it for 8-bit maps."""
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)  # 32 pixels to 16, or 15 if the window is dropped
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), pool, nn.Conv2d(8, 5, 1))
    model = nn.Sequential(model, nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
    x = blurred(4)
    x[:, :, -1, -1] = 9.0  # only in the last window
    options = {"backend": "inductor", "precision": "int8", "calibration": x}
    with optimize(model, x, budget_s=1, tolerance=1.0, **options) as optimized:
        expected = model(x)
        assert (optimized(x) - expected).norm() / expected.norm() < 0.02


@pytest.mark.slow
@pytest.mark.skipif(NO_TORCHAO or not COMPILER, reason="no torchao or no C++ compiler")
def test_ranges_alone_are_not_enough_to_save_a_foreign_network(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 30 * 30, 5))
    options = {"backend": "inductor", "precision": "int8", "calibration": blurred(8)}
    with (
        optimize(model, blurred(2), budget_s=1, tolerance=1.0, **options) as optimized,
        pytest.raises(ValueError, match="does not save a graph"),
    ):
        optimized.save(tmp_path / "fast")
