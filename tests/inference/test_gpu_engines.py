"""The engines for GPUs, with a stand-in for CUDA graphs; tests/gpu runs them on a real GPU."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Report, load_optimized, optimize
from cnnarch.inference._measure import tf32_uses
from cnnarch.inference._requests import default_tolerance
from cnnarch.inference.engines import ENGINES, Eager, Engine, Workload
from cnnarch.inference.engines.cuda_graph import CUDAGraph, InductorCUDAGraph
from cnnarch.inference.engines.inductor import Inductor
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.testing import assert_close, calibrate
from tests.inference.engines import COMPILER
from tests.small_forms import Build, calibrated
from tests.stand_in_gpu import DEVICE, on_gpu, stand_in_gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class StandInRecorder:
    """Calls the network again in place of replaying kernels.

    Like a graph, it reads one input and overwrites one output, so that calls must not overlap.
    """

    recorded = 0

    def __init__(self, _device: torch.device) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def record(self, call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        type(self).recorded += 1
        output = call()

        def replay() -> None:
            assert self.inside == 1
            with torch.inference_mode():
                output.copy_(call())

        return replay, output

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self.lock:
            self.inside += 1
            yield
            self.inside -= 1


class RefusingRecorder(StandInRecorder):
    def record(self, _call: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nand details")


def graph_engine(recorder: type[StandInRecorder], kind: type[CUDAGraph] = CUDAGraph) -> type[Any]:
    """Return an engine with a stand-in recorder that also runs on the CPU."""
    recorder.recorded = 0
    return type("StandIn", (kind,), {"recorder": recorder, "devices": ()})


@pytest.fixture
def model() -> cnnarch.ImageClassifier:
    model = CifarResNet(1)
    calibrate(model, batch(8))
    return model


@pytest.fixture
def engines() -> Iterator[Callable[..., None]]:
    """Return a function that replaces the engines that `optimize` tries."""
    real = dict(ENGINES)

    def install(*kinds: type[Engine]) -> None:
        ENGINES.clear()
        ENGINES.update({kind.name: kind for kind in kinds})

    yield install
    ENGINES.clear()
    ENGINES.update(real)


def batch(size: int, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 3, side, side, generator=generator)


def workload(model: nn.Module, images: Tensor) -> Workload:
    return Workload(model, images, 1)


def test_a_graph_returns_new_logits_for_every_batch(model: nn.Module) -> None:
    engine = graph_engine(StandInRecorder)(workload(model, batch(2)), "float32")
    first = engine(batch(2))
    expected = first.clone()
    with torch.no_grad():
        assert_close(first, model(batch(2)), 1e-5)
        other = batch(2).flip(0)
        assert_close(engine(other), model(other), 1e-5)
        assert torch.equal(first, expected)  # not overwritten by the second call
        assert_close(engine(batch(5)), model(batch(5)), 1e-5)  # without a graph
    assert StandInRecorder.recorded == 1
    (first * nn.Parameter(torch.ones(10))).sum().backward()  # a normal tensor
    assert engine(batch(2).requires_grad_()).requires_grad is False


def test_frequent_shapes_are_recorded_and_their_number_is_bounded(model: nn.Module) -> None:
    engine = graph_engine(StandInRecorder)(workload(model, batch(1)), "float32")
    recorded = []
    for size in (2, 3, 4, 5, 6):
        for _ in range(4):
            assert_close(engine(batch(size)), model(batch(size)), 1e-5)
        recorded.append(StandInRecorder.recorded)
    assert recorded == [2, 3, 4, 4, 4]  # the example's and three others
    engine.free_other_shapes()
    for _ in range(3):
        assert_close(engine(batch(6)), model(batch(6)), 1e-5)
    assert StandInRecorder.recorded == 5


def test_a_shape_that_cannot_be_recorded_runs_without_a_graph(model: nn.Module) -> None:
    engine = graph_engine(StandInRecorder)(workload(model, batch(1)), "float32")
    engine._recorder.record = RefusingRecorder(CPU).record
    engine(batch(3))
    engine(batch(3))
    with pytest.warns(UserWarning, match=r"\(3, 3, 32, 32\), which run in eager instead.*captur"):
        engine(batch(3))
    assert_close(engine(batch(3)), model(batch(3)), 1e-5)  # warns once


def test_threads_get_their_own_logits(model: nn.Module) -> None:
    engine = graph_engine(StandInRecorder)(workload(model, batch(1)), "float32")
    images = [batch(1 + i % 3) * (1 + i) for i in range(48)]
    expected = [model(x) for x in images]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine, images))
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-5)


def test_a_network_that_cannot_be_recorded_runs_in_eager_mode(
    model: nn.Module, engines: Callable[..., None]
) -> None:
    refusing = graph_engine(RefusingRecorder)
    engines(Eager, refusing)
    optimized = optimize(model, batch(2), budget_s=20)
    rows = {row.engine: row.verdict for row in optimized.report.candidates}
    why = "it cannot be recorded in a CUDA graph: operation not permitted when stream is capturing"
    assert rows["cuda_graph"] == f"failed: RuntimeError: {why}"
    assert optimized.backend in ("plain", "eager")
    with pytest.raises(RuntimeError, match="cuda_graph failed: it cannot be recorded"):
        optimize(model, batch(2), backend="cuda_graph")


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler is installed")
def test_the_compiled_network_is_recorded_without_compiling_it_again(
    model: nn.Module, engines: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.Size] = []
    compile_shape = Inductor._compile

    def count(self: Inductor, shape: torch.Size) -> Any:
        compiled.append(shape)
        return compile_shape(self, shape)

    monkeypatch.setattr(Inductor, "_compile", count)
    engines(Inductor, graph_engine(StandInRecorder, InductorCUDAGraph))
    optimized = optimize(model, batch(2), budget_s=200)
    assert compiled == [batch(2).shape]
    rows = optimized.report.candidates
    assert [row.engine for row in rows] == ["plain", "inductor", "inductor_cuda_graph"]
    assert all((row.difference or 0) <= 1e-4 and row.milliseconds for row in rows)


def test_a_graph_of_compiled_code_requires_compiled_code_that_is_correct(
    model: nn.Module, engines: Callable[..., None]
) -> None:
    class Wrong(Eager):
        name = "inductor"

        def __call__(self, images: Tensor) -> Tensor:
            return 2 * super().__call__(images)

    engines(Wrong, graph_engine(StandInRecorder, InductorCUDAGraph))
    optimized = optimize(model, batch(2), budget_s=20)
    verdicts = [row.verdict for row in optimized.report.candidates]
    assert verdicts[2] == "not tried: inductor was not tried or not correct"


def test_each_device_has_its_own_candidates() -> None:
    everywhere = ["eager", "inductor"]
    on_gpus = ["eager_contiguous", "cuda_graph", "cuda_graph_contiguous", "inductor_cuda_graph"]
    on_gpus.append("inductor_max_autotune")
    on_cpus = ["openvino", "onnxruntime"]
    for device, names in ((CPU, on_cpus), (CUDA, on_gpus)):
        found = {name for name, engine in ENGINES.items() if engine.runs_on(device)}
        assert found == {*everywhere, *names}
    for name in on_gpus:
        why = ENGINES[name].why_unavailable("float32", CPU)
        assert why == "only runs on CUDA GPUs, the example is on cpu"


def test_optimize_tries_the_candidates_of_a_gpu(model: nn.Module) -> None:
    with stand_in_gpu():
        optimized = optimize(model.to("cuda"), on_gpu(batch(2)), budget_s=60)
        rows = {row.engine: row.verdict for row in optimized.report.candidates}
        assert [*rows][:3] == ["plain", "eager", "eager_contiguous"]
        assert rows["cuda_graph"].startswith("failed: ")  # the stand-in has no graphs
        assert rows["inductor"] == "unavailable: Triton is not installed"
        assert "openvino" not in rows
        assert optimized.backend in ("plain", "eager", "eager_contiguous")
        assert "images 2 x 3 x 32 x 32, cuda" in str(optimized.report)
        assert "TF32 is used for convolutions" in str(optimized.report)
        logits = optimized(on_gpu(batch(3)))
        assert logits.device == DEVICE
        assert_close(logits.cpu(), model.cpu()(batch(3)), 1e-4)
        with pytest.raises(ValueError, match="images must be on cuda:0, got cpu"):
            optimized(batch(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "int8 only runs on the CPU, but the example is on cuda:0: use bfl"),
        ({"backend": "openvino"}, "'openvino' cannot be used: only runs on the CPU, the example"),
        ({"backend": "onnxruntime"}, "'onnxruntime' cannot be used: only runs on the CPU"),
        (
            {"backend": "onnxruntime", "precision": "bfloat16"},
            "does not support bfloat16; use eager or eager_contiguous or cuda_graph or",
        ),
    ],
)
def test_engines_for_the_cpu_are_refused_on_a_gpu(
    model: nn.Module, options: dict[str, Any], message: str
) -> None:
    with stand_in_gpu(), pytest.raises(ValueError, match=message):
        optimize(model.to("cuda"), on_gpu(batch(2)), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "float16"}, "float16 only runs on GPUs, but the example is on the CPU: use"),
        ({"backend": "cuda_graph"}, "only runs on CUDA GPUs, the example is on cpu"),
    ],
)
def test_engines_for_gpus_are_refused_on_the_cpu(
    model: nn.Module, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        optimize(model, batch(2), **options)


def test_float32_is_judged_by_whether_tf32_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 has 10 bits of mantissa, like float16."""
    assert default_tolerance("float32", CPU) == 1e-4
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert default_tolerance("float32", CUDA) == default_tolerance("float16", CUDA) == 1e-2
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert default_tolerance("float32", CUDA) == 1e-4
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert tf32_uses(CUDA) == ("matrix products",)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


class Full(nn.Module):
    """A network whose device has room for two images."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 "
                "GiB of which 1.00 GiB is free. Including non-PyTorch memory, this process has more"
            )
        return x.mean((2, 3))


def test_a_lack_of_memory_is_explained() -> None:
    expected = (
        r"too little free memory for a batch of 5 images of shape \(3, 32, 32\): use a smaller "
        r"batch, .* \(CUDA out of memory. Tried to allocate 2.00 GiB. .* 1.00 GiB is free.\)"
    )
    with pytest.raises(torch.OutOfMemoryError, match=expected):
        optimize(Full(), batch(5))
    optimized = optimize(Full(), batch(2), backend="eager", budget_s=1)
    with pytest.raises(torch.OutOfMemoryError, match=expected):
        optimized(batch(5))
    assert_close(optimized(batch(2)), Full()(batch(2)), 1e-5)  # still works


def test_a_network_saved_on_a_gpu_is_loaded_there(tmp_path: Path) -> None:
    model = cnnarch.resnet20_cifar()
    calibrate(model, batch(8))
    with torch.no_grad():
        expected = model(batch(2))
    with stand_in_gpu():
        fast = optimize(model.to("cuda"), on_gpu(batch(2)), backend="eager", budget_s=5)
        fast.save(tmp_path / "fast")
    with pytest.raises(ValueError, match="saved for the device 'cuda', which this machine does"):
        load_optimized(tmp_path / "fast", rebuild=False)
    here = load_optimized(tmp_path / "fast", budget_s=0)
    assert here.example.device == CPU
    assert "Optimized again: it was saved for the device 'cuda'" in here.report.notes[-1]
    assert_close(here(batch(2)), expected, 1e-4)


def test_old_reports_have_no_device() -> None:
    assert Report((), (1, 3, 8, 8), 2, 1e-4, "float32").device == "cpu"


def test_every_kind_of_layer_can_be_recorded(distinct_form: Build) -> None:
    """Networks compute the same from the static input in any precision of the engine."""
    model = calibrated(distinct_form)
    from cnnarch.testing import example_images

    images = example_images(model, 1)
    engine = graph_engine(StandInRecorder)(workload(model, images), "float32")
    assert_close(engine(images), model(images), 1e-4)
