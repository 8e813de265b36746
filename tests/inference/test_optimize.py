"""`optimize` moves a network to a faster engine and reports how the engine was chosen."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cnnarch
from cnnarch.inference import Optimized, optimize
from cnnarch.inference.engines import ENGINES, Engine, Workload
from cnnarch.models.mlp_mixer import MLPMixer
from cnnarch.models.resnet_cifar import CifarResNet
from cnnarch.testing import assert_close, calibrate, example_images

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

SMALL: dict[str, Callable[[], cnnarch.ImageClassifier]] = {
    "lenet5": cnnarch.lenet5,
    "resnet8": lambda: CifarResNet(1),
    "mobilenet_v1": lambda: cnnarch.mobilenet_v1(width=0.25, num_classes=10, small_images=True),
    "mixer": lambda: MLPMixer(2, 8, 32, 64, 16, num_classes=10, image_size=32),
}

LONG = (
    "mobilenet_v1",
    "onnxruntime",
)  # slow to convert; test_export covers its layers


@cache
def network(name: str) -> cnnarch.ImageClassifier:
    torch.manual_seed(0)
    model = SMALL[name]()
    calibrate(model, images(name, 8))
    return model


def images(name: str, batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, 1 if name == "lenet5" else 3, 32, 32, generator=generator)


class Fake(Engine):
    """An engine whose behavior a test defines."""

    precisions = ("float32", "bfloat16", "int8")
    pause: float = 0.0
    why: str | None = None
    closed = 0

    @classmethod
    def why_unavailable(cls, precision: str, device: torch.device) -> str | None:  # noqa: ARG003
        return cls.why

    def __init__(self, workload: Workload, precision: str, parts: Any = None) -> None:
        super().__init__(workload, precision, parts)
        if self.name == "raises":
            raise RuntimeError("no such operator\nand a second line")

    def __call__(self, images: Tensor) -> Tensor:
        time.sleep(self.pause)
        with torch.no_grad():
            return self.change(self.model()(images).clone())

    def model(self) -> nn.Module:
        return self.workload.model

    def change(self, logits: Tensor) -> Tensor:
        return logits

    def close(self) -> None:
        type(self).closed += 1


class WithoutPause(Fake):
    """An engine that skips the last layer of `slow_net`."""

    def model(self) -> nn.Module:
        return self.workload.model[:2]  # type: ignore[index]


def fake(
    name: str,
    *,
    seconds: float = 0.0,
    change: Callable[[Tensor], Tensor] = lambda logits: logits,
    needs: float = 0.0,
    why: str | None = None,
) -> type[Fake]:
    facts = {"name": name, "pause": seconds, "build_seconds": (needs, 0.0), "why": why}
    return type(name, (Fake,), {**facts, "change": staticmethod(change)})


@pytest.fixture
def fakes() -> Iterator[Callable[..., None]]:
    """Return a function that replaces the real engines."""
    real = dict(ENGINES)

    def install(*engines: type[Fake]) -> None:
        ENGINES.clear()
        ENGINES.update({engine.name: engine for engine in engines})

    yield install
    ENGINES.clear()
    ENGINES.update(real)


def verdicts(optimized: Optimized) -> Mapping[str, str]:
    return {row.engine: row.verdict for row in optimized.report.candidates}


def slow_net() -> nn.Module:
    """Return a network whose calls take at least 4 ms."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), _Pause())


class _Pause(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.004)
        return x


def add_relative(share: float) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits + share * logits.abs().max()


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=pytest.mark.slow if (name, backend) == LONG else ())
        for name in SMALL
        for backend in ("eager", "openvino", "onnxruntime")
    ],
)
def test_the_logits_match_the_network_for_any_batch_size(name: str, backend: str) -> None:
    model = network(name)
    with optimize(model, images(name, 2), backend=backend, budget_s=2) as optimized:
        assert optimized.backend == backend
        for batch in (1, 2, 5):
            x = images(name, batch)
            logits = optimized(x)
            assert logits.dtype == torch.float32
            assert_close(logits, model(x), 1e-4)
        assert optimized(images(name, 2)[:0]).shape == (0, model.num_classes)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_bfloat16_logits_differ_by_rounding_only(backend: str) -> None:
    why = ENGINES[backend].why_unavailable("bfloat16", torch.device("cpu"))
    if why:
        pytest.skip(f"{backend}: {why}")
    model, x = network("resnet8"), images("resnet8", 4)
    with optimize(model, x, backend=backend, precision="bfloat16", budget_s=2) as optimized:
        logits = optimized(x)
        assert logits.dtype == torch.float32
        assert_close(logits, model(x), 3e-2)
        assert not torch.allclose(logits, model(x), rtol=0, atol=1e-5)  # not float32


def test_auto_reports_every_engine_and_chooses_one() -> None:
    model, x = network("lenet5"), images("lenet5", 1)
    with optimize(model, x, budget_s=10) as optimized:
        rows = optimized.report.candidates
        engines = [row.engine for row in rows]
        assert engines == ["plain", "eager", "openvino", "onnxruntime", "inductor"]
        assert rows[-1].verdict.startswith("not tried: budget")
        assert [row.verdict for row in rows].count("chosen") == 1
        assert optimized.report.chosen.engine == optimized.backend
        for row in rows[:-1]:
            assert row.milliseconds is not None
            assert row.milliseconds > 0
            assert row.difference is not None
            assert row.difference <= 1e-4
        table = str(optimized.report)
        assert "1 x 1 x 32 x 32" in table
        assert all(engine in table for engine in engines)


def test_the_fastest_correct_candidate_is_chosen(fakes: Callable[..., None]) -> None:
    fast, slow = fake("fast"), fake("slow", seconds=0.01)
    wrong = fake("wrong", change=add_relative(1e-3))
    nan = fake("nan", change=lambda logits: logits * math.nan)
    shape = fake("shape", change=lambda logits: logits[:, 1:])
    absent = fake("absent", why="not installed")
    long = fake("long", needs=1e6)
    engines = (slow, wrong, nan, shape, fake("raises"), absent, long, fast)
    fakes(*engines)
    optimized = optimize(network("lenet5"), images("lenet5", 2), budget_s=3)
    found = verdicts(optimized)
    for equal in ("plain", "fast"):  # either may win
        assert found.pop(equal).partition(":")[0] in ("slower", "chosen")
    kind, _, ratio = found.pop("slow").partition(": ")
    assert kind == "slower"
    assert float(ratio.removesuffix("x")) > 2  # 10 ms more than a LeNet call
    assert found == {
        "wrong": "rejected: differs by more than 1e-04",
        "nan": "rejected: differs by more than 1e-04",
        "shape": "rejected: differs by more than 1e-04",
        "raises": "failed: RuntimeError: no such operator",
        "absent": "unavailable: not installed",
        "long": found["long"],
    }
    assert found["long"].startswith("not tried: budget")
    assert optimized.backend in ("plain", "fast")
    assert [engine.closed for engine in (slow, wrong, nan, shape)] == [1, 1, 1, 1]


def test_a_candidate_that_is_faster_than_plain_is_chosen(fakes: Callable[..., None]) -> None:
    WithoutPause.name = "fast"
    fakes(WithoutPause)
    optimized = optimize(slow_net(), torch.randn(2, 3, 2, 2), budget_s=1)
    found = verdicts(optimized)
    assert found["fast"] == "chosen"
    assert found["plain"].startswith("slower: ")
    assert optimized.report.speedup is not None
    assert optimized.report.speedup > 1


def test_the_budget_includes_timing_the_network_itself(fakes: Callable[..., None]) -> None:
    fakes(fake("fast"))
    optimized = optimize(slow_net(), torch.randn(2, 3, 2, 2), budget_s=0.02)  # 4 ms per call
    assert verdicts(optimized)["fast"].startswith("not tried: budget")
    assert optimized.backend == "plain"


@pytest.mark.parametrize(("images", "tried"), [(2, True), (100, False)])
def test_the_budget_includes_calibration(
    fakes: Callable[..., None], images: int, tried: bool
) -> None:
    fakes(fake("fast"))
    batches = [torch.randn(2, 3, 2, 2)] * (images // 2)  # 4 ms each
    options = {"precision": "int8", "calibration": batches, "budget_s": 0.7}
    optimized = optimize(slow_net(), torch.randn(2, 3, 2, 2), tolerance=1.0, **options)
    (row,) = (row for row in optimized.report.candidates if row.precision == "int8")
    assert row.verdict.startswith("not tried: budget") is not tried


def test_a_slow_engine_is_called_three_times(fakes: Callable[..., None]) -> None:
    """One call checks the example, one checks a different batch size, and one is timed."""
    calls: list[int] = []

    def count(logits: Tensor) -> Tensor:
        calls.append(len(logits))
        return logits

    fakes(fake("long", seconds=0.1, change=count))
    optimized = optimize(network("lenet5"), images("lenet5", 4), budget_s=1)  # 0.05 s for timing
    assert verdicts(optimized)["long"].startswith("slower: ")
    assert calls == [4, 1, 4]


@pytest.mark.parametrize(("off", "tolerance", "right"), [(0.02, 0.03, True), (0.02, 0.01, False)])
def test_tolerance_is_relative_to_the_largest_logit(
    fakes: Callable[..., None], off: float, tolerance: float, right: bool
) -> None:
    fakes(fake("off", change=add_relative(off)))
    optimized = optimize(network("lenet5"), images("lenet5", 2), tolerance=tolerance, budget_s=1)
    row = optimized.report.candidates[1]
    assert row.difference == pytest.approx(off, rel=1e-3)
    assert row.verdict.startswith("rejected") is not right


def test_a_second_batch_size_is_also_checked(fakes: Callable[..., None]) -> None:
    def wrong_for_one_image(logits: Tensor) -> Tensor:
        return logits * 2 if len(logits) == 1 else logits

    fakes(fake("batch", change=wrong_for_one_image))
    optimized = optimize(network("lenet5"), images("lenet5", 4), budget_s=1)
    assert verdicts(optimized)["batch"].startswith("rejected")


def test_float32_is_tried_if_no_bfloat16_candidate_is_correct(fakes: Callable[..., None]) -> None:
    class Mixed(Fake):
        name = "mixed"

        def change(self, logits: Tensor) -> Tensor:
            return add_relative(0.5 if self.precision == "bfloat16" else 0.0)(logits)

    fakes(Mixed)
    x = images("lenet5", 2)
    optimized = optimize(network("lenet5"), x, precision="bfloat16", budget_s=1)
    rows = [(row.engine, row.precision) for row in optimized.report.candidates]
    assert rows == [("plain", "float32"), ("mixed", "bfloat16"), ("mixed", "float32")]
    assert optimized.report.candidates[1].verdict == "rejected: differs by more than 3e-02"
    assert optimized.precision == "float32"


@pytest.mark.parametrize(
    ("pauses", "tried", "chosen"),
    [
        ({"int8": 0.001, "bfloat16": 0.0}, ["int8", "bfloat16"], "bfloat16"),
        ({"int8": 0.003, "bfloat16": 0.003, "float32": 0.0}, None, "float32"),
    ],
    ids=["much faster than plain", "hardly faster than plain"],
)
def test_higher_precisions_are_tried_after_int8(
    fakes: Callable[..., None], pauses: dict[str, float], tried: list[str] | None, chosen: str
) -> None:
    class Paused(WithoutPause):
        name = "paused"

        def __call__(self, images: Tensor) -> Tensor:
            time.sleep(pauses[self.precision])
            return super().__call__(images)

    fakes(Paused)
    x = torch.randn(2, 3, 2, 2)
    options = {"precision": "int8", "calibration": x, "budget_s": 2, "tolerance": 1.0}
    optimized = optimize(slow_net(), x, **options)
    found = [row.precision for row in optimized.report.candidates if row.engine == "paused"]
    assert found == (tried or ["int8", "bfloat16", "float32"])
    assert optimized.precision == chosen


def test_int8_is_judged_by_top_1_agreement(fakes: Callable[..., None]) -> None:
    def wrong_for_first_image(logits: Tensor) -> Tensor:
        if len(logits) == 20:
            logits[0] = -logits[0]
        return logits

    x = images("lenet5", 20)
    fakes(fake("int8_engine", change=wrong_for_first_image))
    options = {"precision": "int8", "calibration": [(x, torch.zeros(20))], "budget_s": 1}
    row = optimize(network("lenet5"), x[:2], **options).report.candidates[1]
    assert row.agreement == pytest.approx(0.95)
    assert not row.verdict.startswith("rejected")
    row = optimize(network("lenet5"), x[:2], tolerance=0.04, **options).report.candidates[1]
    assert row.verdict == "rejected: top-1 agreement is below 96.0%"


def test_a_requested_engine_that_fails_raises(fakes: Callable[..., None]) -> None:
    fakes(
        fake("raises"),
        fake("wrong", change=add_relative(0.5)),
        fake("absent", why="is not installed"),
    )
    model, x = network("lenet5"), images("lenet5", 2)
    with pytest.raises(RuntimeError, match="raises failed: no such operator"):
        optimize(model, x, backend="raises")
    with pytest.raises(RuntimeError, match="wrong in float32 was rejected: differs by"):
        optimize(model, x, backend="wrong")
    with pytest.raises(ValueError, match="'absent' cannot be used: is not installed"):
        optimize(model, x, backend="absent")


def test_a_requested_engine_is_used_even_if_slower(fakes: Callable[..., None]) -> None:
    fakes(fake("slow", seconds=0.01), fake("fast"))
    optimized = optimize(network("lenet5"), images("lenet5", 2), backend="slow", budget_s=1)
    assert verdicts(optimized) == {"plain": "for comparison", "slow": "chosen"}


@pytest.mark.filterwarnings("ignore:the forward hooks")
def test_the_model_is_left_unchanged() -> None:
    torch.manual_seed(0)
    model = cnnarch.resnet20_cifar().train()
    model.stem.register_forward_hook(lambda *_: pytest.fail("a hook of the model ran"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    strides = [p.stride() for p in model.parameters()]
    with optimize(model, torch.randn(2, 3, 32, 32), budget_s=2, backend="eager", tolerance=1e-4):
        pass
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert [p.stride() for p in model.parameters()] == strides
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_result_does_not_share_memory_with_the_model() -> None:
    torch.manual_seed(0)
    model, x = cnnarch.lenet5(), images("lenet5", 2)
    optimized = optimize(model, x, backend="eager", budget_s=1)
    before = optimized(x)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(optimized(x), before)


def test_logits_can_be_used_in_a_training_step() -> None:
    teacher = optimize(network("lenet5"), images("lenet5", 2), backend="eager", budget_s=1)
    student = cnnarch.lenet5()
    x = images("lenet5", 2)
    (student(x) * teacher(x)).sum().backward()
    assert teacher(x).requires_grad is False


def test_a_torchvision_network_is_optimized() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = torchvision.models.squeezenet1_1(num_classes=10).eval()
    x = torch.randn(2, 3, 64, 64)
    for backend in ("eager", "openvino", "onnxruntime"):
        with optimize(model, x, backend=backend, budget_s=2) as optimized:
            assert_close(optimized(x), model(x), 1e-4)


def test_a_network_fused_with_preprocessing_accepts_uint8_images() -> None:
    from cnnarch.inference import fuse
    from cnnarch.weights import Preprocessing

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = network("resnet8")
    fused = fuse(model, Preprocessing(resize_size=32, crop_size=32, mean=mean, std=std))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    pixels[1] //= 4
    scale = torch.tensor(std).view(3, 1, 1)
    expected = model((pixels / 255 - torch.tensor(mean).view(3, 1, 1)) / scale)
    for backend in ("eager", "openvino", "onnxruntime"):
        with optimize(fused, pixels, backend=backend, budget_s=2) as optimized:
            assert_close(optimized(pixels), expected, 1e-4)
            with pytest.raises(TypeError, match=r"torch.uint8 Tensor, got torch.float32"):
                optimized(pixels.float())


def test_logits_that_ignore_the_images_cause_a_warning() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    with torch.no_grad():
        model[1].weight.zero_()
    x = torch.randn(2, 3, 2, 2)
    with pytest.warns(UserWarning, match="hardly depend on the images"):
        optimized = optimize(model, x, backend="eager", budget_s=1)
    assert "agreement proves little" in str(optimized.report)
    with torch.no_grad():
        model[1].bias.zero_()
    with pytest.warns(UserWarning, match="hardly depend on the images"):
        optimize(model, x, backend="eager", budget_s=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backend": "tensorrt"}, ValueError, "'auto', 'eager', .*'openvino', .*got 'tensorrt'"),
        (
            {"precision": "float8"},
            ValueError,
            "'float32', 'bfloat16', 'float16', 'int8', got 'float8'",
        ),
        (
            {"backend": "onnxruntime", "precision": "bfloat16"},
            ValueError,
            "does not support bfloat16",
        ),
        (
            {"backend": "eager", "precision": "int8"},
            ValueError,
            "support int8; use openvino or inductor",
        ),
        ({"precision": "int8"}, ValueError, "int8 needs calibration="),
        ({"precision": "int8", "calibration": []}, ValueError, "contains no images"),
        ({"precision": "int8", "calibration": 3}, TypeError, "must be images"),
        ({"precision": "int8", "calibration": ["a.png"]}, TypeError, "a Tensor of images, got str"),
        ({"precision": "int8", "calibration": torch.zeros(4, 3, 9, 9)}, ValueError, r"3, 9, 9"),
        ({"tolerance": -1}, ValueError, "at least 0 and finite, got -1"),
        ({"tolerance": math.nan}, ValueError, "got nan"),
        ({"tolerance": "1e-3"}, TypeError, "a number, got '1e-3'"),
        ({"budget_s": -1}, ValueError, "at least 0, got -1"),
        ({"budget_s": None}, TypeError, "a number of seconds, got None"),
    ],
)
def test_an_invalid_argument_raises(
    options: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        optimize(network("lenet5"), images("lenet5", 1), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (torch.zeros(1, 32, 32), ValueError, r"\(N, C, H, W\), got shape \(1, 32, 32\)"),
        (torch.zeros(0, 1, 32, 32), ValueError, r"got shape \(0, 1, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32), ValueError, r"got \(1, 3, 32, 32\)"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.float64), ValueError, "float32 or uint8"),
        (torch.full((1, 1, 32, 32), math.nan), ValueError, "not finite"),
        ("a.png", TypeError, "a Tensor of images, got str"),
    ],
)
def test_an_invalid_example_raises(example: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optimize(network("lenet5"), example)  # type: ignore[arg-type]


def test_an_invalid_model_raises() -> None:
    x = torch.randn(1, 1, 32, 32)
    with pytest.raises(TypeError, match=r"a torch.nn.Module, got str"):
        optimize("lenet5", x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="one Tensor, got tuple"):
        optimize(nn.Sequential(nn.Flatten(), nn.LSTM(1024, 5)), x)
    with torch.device("meta"):
        on_meta = cnnarch.lenet5()
    with pytest.raises(ValueError, match="meta device"):
        optimize(on_meta, x)
    with pytest.raises(ValueError, match=r"one row of logits .* got shape \(1, 1, 32, 32\)"):
        optimize(nn.ReLU(), x)
    broken = cnnarch.lenet5()
    torch.nn.init.constant_(next(broken.parameters()), math.nan)
    with pytest.raises(ValueError, match="returns NaN"):
        optimize(broken, x)


def test_an_invalid_call_raises() -> None:
    optimized = optimize(network("lenet5"), images("lenet5", 1), backend="openvino", budget_s=1)
    with pytest.raises(TypeError, match=r"torch.float32 Tensor, got torch.float64"):
        optimized(images("lenet5", 1).double())
    with pytest.raises(TypeError, match="got list"):
        optimized([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), got \(1, 3, 32, 32\)"):
        optimized(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"\(N, 1, H, W\), got \(1, 32, 32\)"):
        optimized(torch.zeros(1, 32, 32))
    optimized.close()
    optimized.close()
    with pytest.raises(RuntimeError, match="closed"):
        optimized(images("lenet5", 1))
    with pytest.raises(RuntimeError, match="closed"):
        optimized.parts()


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The logits hardly depend on the images"
)  # lenet5_1998, untrained
def test_every_network_is_optimized(model: cnnarch.ImageClassifier) -> None:
    x = example_images(model, 1)
    with optimize(model, x, budget_s=20) as optimized:
        for batch in (1, 3):
            y = example_images(model, batch)
            with torch.inference_mode():
                assert_close(optimized(y), model(y), 3e-4)
        for row in optimized.report.candidates:
            assert not row.verdict.startswith("failed"), optimized.report
            assert (row.difference or 0.0) < 1e-3, optimized.report  # 1202 layers
