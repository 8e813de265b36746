"""An optimized network can be closed, forked and unpickled while other threads use it."""

import logging
import multiprocessing
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Optimized, load_optimized, optimize
from cnnarch.inference._tracing import suppress_messages
from cnnarch.inference.engines import Engine, Workload
from cnnarch.inference.report import Report
from cnnarch.testing import assert_close, calibrate, example_images
from tests.inference.engines import INDUCTOR

FORKS = "fork" in multiprocessing.get_all_start_methods()
IMAGES = torch.arange(24.0).reshape(2, 3, 2, 2)

pytestmark = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)


class Waiting(Engine):
    """An engine whose calls last until `leave` is set."""

    name = "eager"
    closed = False

    def __init__(self) -> None:
        super().__init__(Workload(nn.Flatten().eval(), IMAGES, 1), "float32")
        self.entered, self.leave = threading.Event(), threading.Event()

    def __call__(self, images: Tensor) -> Tensor:
        self.entered.set()
        assert self.leave.wait(20)
        assert not self.closed, "it was closed during a call"
        return images.flatten(1)

    def close(self) -> None:
        self.closed = True


def waiting() -> tuple[Optimized, Waiting]:
    engine = Waiting()
    return Optimized(engine, Report((), tuple(IMAGES.shape), 1, 1e-4, "float32")), engine


def test_close_waits_for_calls_in_flight() -> None:
    optimized, engine = waiting()
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(optimized, IMAGES)
        assert engine.entered.wait(20)
        closing = pool.submit(optimized.close)
        with pytest.raises(TimeoutError):
            closing.result(0.1)
        with pytest.raises(RuntimeError, match="closed"):
            optimized(IMAGES)  # new calls are rejected in the meantime
        engine.leave.set()
        assert torch.equal(call.result(20), IMAGES.flatten(1))
        closing.result(20)
    assert engine.closed
    optimized.close()  # closing twice is allowed


def _close(optimized: Optimized, engine: Waiting) -> str:
    optimized.close()
    try:
        optimized(IMAGES)
    except RuntimeError as error:
        return f"{error}, {engine.closed}"
    return "it was not closed"


@pytest.mark.skipif(not FORKS, reason="this system does not fork")
def test_closing_in_a_fork_does_not_close_the_parents_engine() -> None:
    """Closing an engine could wait for threads that exist only in the parent."""
    context = multiprocessing.get_context("fork")
    optimized, engine = waiting()
    queue = context.SimpleQueue()
    worker = context.Process(target=lambda: queue.put(_close(optimized, engine)))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert queue.get() == "this network is closed, False"


@pytest.fixture(scope="module")
def model() -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = cnnarch.lenet5()
    calibrate(model, example_images(model, 8))
    return model


def _compute(optimized: Optimized, x: Tensor) -> tuple[list[list[float]], str, int]:
    return optimized(x).tolist(), optimized.backend, torch.get_num_threads()


def _load(folder: Path, x: Tensor) -> tuple[list[list[float]], str, int]:
    with load_optimized(folder, rebuild=False) as optimized:
        return _compute(optimized, x)


@pytest.mark.skipif(not FORKS, reason="this system does not fork")
@pytest.mark.parametrize(
    "backend",
    ["eager", "openvino", "onnxruntime", INDUCTOR],
)
def test_a_forked_worker_can_unpickle_and_load_an_optimized_network(
    model: cnnarch.ImageClassifier, backend: str, tmp_path: Path
) -> None:
    if backend in ("openvino", "onnxruntime"):
        pytest.importorskip(backend)
    x = example_images(model, 4)
    with optimize(model, x, backend=backend, budget_s=1) as optimized:
        expected = optimized(x)
        optimized.save(tmp_path / "fast")
        with multiprocessing.get_context("fork").Pool(1) as pool:
            results = [
                pool.apply_async(_compute, (optimized, x)).get(60),
                pool.apply_async(_load, (tmp_path / "fast", x)).get(60),
            ]
    for logits, used, threads in results:
        assert_close(torch.tensor(logits), expected, 1e-4)
        assert used == ("eager" if backend == "inductor" else backend)
        assert threads == 1


@pytest.fixture
def logging_is_on() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("logging_is_on")
def test_two_converting_threads_restore_the_process_wide_settings() -> None:
    """Without a lock, the second thread would restore the first thread's settings."""
    filters = list(warnings.filters)
    inside, tried, left = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with suppress_messages():
            inside.set()
            assert tried.wait(20)
            left.wait(0.1)  # give the second thread time to enter
        left.set()

    def second() -> None:
        assert inside.wait(20)
        tried.set()
        with suppress_messages():
            assert left.wait(20)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(30)
    assert logging.root.manager.disable == logging.NOTSET
    assert list(warnings.filters) == filters
