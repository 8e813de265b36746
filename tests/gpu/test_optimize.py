"""`optimize` on a GPU: every engine, other shapes, threads, saving, and what cannot be recorded."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import load_optimized, optimize
from cnnarch.inference.engines import ENGINES
from cnnarch.testing import assert_close, calibrate

GPU = torch.device("cuda", 0)
NAMES = [name for name, engine in ENGINES.items() if engine.runs_on(GPU)]
TOLERANCES = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 1e-2}


def batch(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 3, 32, 32, generator=generator).to(GPU)


@pytest.fixture
def model() -> nn.Module:
    model = cnnarch.resnet20_cifar().to(GPU)
    calibrate(model, batch(8))
    return model


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("backend", NAMES)
def test_every_engine_returns_the_logits(backend: str, precision: str, model: nn.Module) -> None:
    with optimize(model, batch(2), backend=backend, precision=precision) as fast:
        for size in (2, 1, 5, 5, 5, 5, 0):
            logits = fast(batch(size))
            assert logits.device == GPU
            assert logits.dtype == torch.float32
            if size:
                assert_close(logits, model(batch(size)), TOLERANCES[precision])


@pytest.mark.parametrize("precision", TOLERANCES)
def test_no_candidate_fails(precision: str, model: nn.Module) -> None:
    fast = optimize(model, batch(2), precision=precision, budget_s=200)
    assert not [row for row in fast.report.candidates if row.verdict.startswith("failed")]
    assert torch.cuda.get_device_name() in str(fast.report)
    assert fast.report.speedup is None or fast.report.speedup > 1


def test_threads_with_their_own_streams_get_their_own_logits(model: nn.Module) -> None:
    fast = optimize(model, batch(2), backend="cuda_graph")
    images = [batch(2) * (1 + i) for i in range(64)]
    expected = [model(x) for x in images]
    streams = threading.local()

    def call(x: Tensor) -> Tensor:
        if not hasattr(streams, "own"):
            streams.own = torch.cuda.Stream()
            streams.own.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(streams.own):
            logits = fast(x)
        streams.own.synchronize()
        return logits

    torch.cuda.synchronize()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, images))
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-3)


class Waits(nn.Module):
    """A network that waits for the GPU, which cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return self.linear(pooled * 2 if pooled.sum().item() > 0 else pooled)


def test_a_network_that_cannot_be_recorded_runs_in_eager_mode() -> None:
    torch.manual_seed(0)
    model = Waits().to(GPU).eval()
    fast = optimize(model, batch(2), budget_s=20)
    rows = {row.engine: row.verdict for row in fast.report.candidates}
    assert "cannot be recorded in a CUDA graph" in rows["cuda_graph"]
    assert_close(fast(batch(3)), model(batch(3)), 1e-4)  # the GPU still works


@pytest.mark.parametrize("backend", NAMES)
def test_a_saved_network_is_restored_on_the_gpu(
    backend: str, model: nn.Module, tmp_path: Path
) -> None:
    fast = optimize(model, batch(2), backend=backend, precision="bfloat16")
    fast.save(tmp_path / "fast")
    loaded = load_optimized(tmp_path / "fast", rebuild=False)
    assert loaded.backend == backend
    assert loaded.example.device == GPU
    assert_close(loaded(batch(2)), fast(batch(2)), 3e-2)


class Large(nn.Module):
    """A network that needs a tebibyte for each image after the second."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            torch.empty(len(x) * 2**40, dtype=torch.uint8, device=x.device)
        return x.mean((2, 3))


def test_a_lack_of_memory_is_explained() -> None:
    with pytest.raises(torch.OutOfMemoryError, match=r"a batch of 3 images .*Tried to allocate"):
        optimize(Large(), batch(3))
    fast = optimize(Large(), batch(2), backend="cuda_graph")
    with pytest.raises(torch.OutOfMemoryError, match=r"a batch of 4 images .*Tried to allocate"):
        fast(batch(4))
    assert_close(fast(batch(2)), Large()(batch(2)), 1e-5)
