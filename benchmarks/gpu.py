"""How fast and how correct is cnnarch on a GPU, compared with PyTorch code by hand?

    python -m benchmarks.gpu                     all sections in about 400 seconds; resumes a run
    python -m benchmarks.gpu infer train         these sections
    python -m benchmarks.gpu --seconds 200       another time budget
    python -m benchmarks.gpu --device cpu --tiny small networks on a CPU, as a test of this script

Each section has a share of the budget and starts no new row when its share is used up. Rows that
are in the JSON file are skipped, so a second run continues. Candidates are timed alternately in one
process, and a row that fails records its error. The zoo also writes its own files to the folder
zoo/gpu next to the JSON file.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import cnnarch
from benchmarks.gpu_fit import fit_rows
from benchmarks.gpu_setup import TINY, Row, Setup
from benchmarks.gpu_zoo import zoo_rows
from benchmarks.measure import RESULTS, alternate, card, machine, versions, write
from benchmarks.pairs import PAIRS
from cnnarch.preprocessing import Preprocessing

MODES = {
    "compiled": {},
    "reduce-overhead": {"mode": "reduce-overhead"},
    "max-autotune": {"mode": "max-autotune"},
}


def check_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Compare logits and bfloat16 gradients of every network with those of the CPU."""
    names = ["lenet5", "resnet20_cifar"] if setup.tiny else cnnarch.list_models()
    for name in names:
        yield name, partial(check, setup, name)


def check(setup: Setup, name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    model = cnnarch.get_model(name).train()
    side = max(model.min_input_size, 32 if model.fixed_input_size else 64)
    images = torch.randn(4, model.in_channels, side, side)
    with torch.no_grad():
        model(images)  # sets the statistics
    copied = cnnarch.get_model(name, weights=model.state_dict()).to(setup.device)
    with torch.no_grad():
        expected = model.eval()(images)
        found = copied.eval()(images.to(setup.device)).cpu()
    gradients = []
    for network, device in ((model, "cpu"), (copied, setup.device)):
        with torch.autocast(device, torch.bfloat16):
            loss = network(images.to(device)).float().square().mean()
        gradients.append([g.cpu() for g in torch.autograd.grad(loss, _trained(network))])
    ours, theirs = (torch.cat([g.double().flatten() for g in each]) for each in reversed(gradients))
    return {
        "logits": _relative(found, expected),
        "gradient_cosine": nn.functional.cosine_similarity(ours, theirs, dim=0).item(),
        "finite": bool(ours.isfinite().all()),
    }


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def infer_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Compare `optimize` with eager and compiled networks, and eager networks with their twins."""
    names = ("resnet50", "efficientnet_b0", "densenet121", "resnet18")
    for batch in (1, 2) if setup.tiny else (1, 128):
        for name in (TINY,) if setup.tiny else names:
            yield f"{name}, batch {batch}", partial(infer, setup, name, batch)
    for pair in PAIRS[:1] if setup.tiny else PAIRS:
        yield f"{pair.network}, eager float32", partial(eager, setup, pair)


def infer(setup: Setup, name: str, batch: int) -> dict[str, Any]:
    from cnnarch.inference import optimize

    model, images = setup.network(name).eval(), setup.images(batch)
    last = model.to(torch.bfloat16, memory_format=torch.channels_last)
    inputs = images.to(torch.bfloat16, memory_format=torch.channels_last)
    calls: dict[str, Callable[[], object]] = {"eager": lambda: last(inputs)}
    for mode, options in {}.items() if setup.tiny else MODES.items():
        compiled = torch.compile(last, **options)
        calls[mode] = partial(compiled, inputs)
    fast = optimize(
        setup.network(name).eval(),
        images,
        backend="eager" if setup.tiny else "auto",
        precision="bfloat16",
        budget_s=60,
    )
    calls["optimize"] = lambda: fast(images)
    with torch.inference_mode():
        seconds = alternate({k: setup.finish(call) for k, call in calls.items()}, 10, 5)
    figures = _milliseconds(seconds)
    best = min(value for key, value in figures.items() if key != "optimize_ms")
    chosen = next(c for c in fast.report.candidates if c.verdict == "chosen")
    return {
        **figures,
        "chosen": f"{chosen.engine} {chosen.precision}",
        "candidates": [asdict(candidate) for candidate in fast.report.candidates],
        "ratio_to_best": figures["optimize_ms"] / best,
        "ratio_to_eager": figures["optimize_ms"] / figures["eager_ms"],
    }


def eager(setup: Setup, pair: Any) -> dict[str, Any]:
    images = setup.images(1)
    networks = {"ours": pair.ours(), "theirs": pair.theirs()}
    calls = {
        name: setup.finish(partial(model.eval().to(setup.device), images))
        for name, model in networks.items()
    }
    with torch.inference_mode():
        figures = _milliseconds(alternate(calls, 20, 5))
    return {**figures, "ratio": figures["ours_ms"] / figures["theirs_ms"]}


def train_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Time training steps by hand, in eager mode and compiled, in bfloat16."""
    for name in (TINY,) if setup.tiny else ("resnet50", "efficientnet_b0"):
        yield name, partial(steps_by_hand, setup, name)


def steps_by_hand(setup: Setup, name: str) -> dict[str, Any]:
    batch = 2 if setup.tiny else 256
    images, labels = setup.images(batch), torch.arange(batch, device=setup.device) % 10
    images = images.to(memory_format=torch.channels_last)
    calls = {}
    for kind in ("eager",) if setup.tiny else ("eager", "compiled"):
        model = setup.network(name).to(memory_format=torch.channels_last).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        forward = torch.compile(model) if kind == "compiled" else model

        def step(forward: Any = forward, optimizer: Any = optimizer) -> None:
            with torch.autocast(setup.device, torch.bfloat16):
                loss = nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        calls[kind] = setup.finish(step)
    seconds = alternate(calls, 2 if setup.tiny else 10, 1 if setup.tiny else 5)
    rates = {f"{k}_images_per_s": batch / statistics.median(s) for k, s in seconds.items()}
    memory = torch.cuda.max_memory_allocated() if setup.device == "cuda" else None
    return {**rates, "peak_bytes": memory}


def folder_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Time classifying a folder of JPEG files."""
    yield "Predictor, JPEG files", partial(predict_folder, setup)


def predict_folder(setup: Setup) -> dict[str, Any]:
    from PIL import Image

    from cnnarch.inference import Predictor

    count, side = (4, 80) if setup.tiny else (2000, 500)
    name = TINY if setup.tiny else "resnet50"
    with tempfile.TemporaryDirectory() as folder:
        noise = torch.randint(0, 256, (side // 8, side // 8, 3), dtype=torch.uint8)
        image = Image.fromarray(noise.numpy()).resize((side, side))
        for i in range(count):
            image.save(Path(folder, f"{i}.jpg"))
        model = setup.network(name).eval()
        predictor = Predictor(model, preprocessing=Preprocessing(224, 256), batch_size=64)
        predictor(image)
        start = time.perf_counter()
        list(predictor(folder))
        return {"images_per_s": count / (time.perf_counter() - start)}


SECTIONS: dict[str, tuple[Callable[[Setup], Iterator[tuple[str, Row]]], float]] = {
    "check": (check_rows, 0.15),
    "infer": (infer_rows, 0.35),
    "train": (train_rows, 0.15),
    "fit": (fit_rows, 0.15),
    "folder": (folder_rows, 0.05),
    "zoo": (zoo_rows, 0.15),
}
"""The rows of each section, and its share of the time if all sections run."""


def _milliseconds(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {f"{name}_ms": 1000 * statistics.median(times) for name, times in seconds.items()}


def run(setup: Setup, names: list[str], seconds: float, path: Path) -> dict[str, Any]:
    """Measure the rows that the file lacks or that failed, and save the file after each row."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    results = kept.get("results", {})
    shares = sum(SECTIONS[name][1] for name in names)
    for name in names:
        rows, share = SECTIONS[name]
        end = time.perf_counter() + share / shares * seconds
        for label, measure in rows(setup):
            measured = "error" not in results.get(name, {}).get(label, {"error": "not measured"})
            if measured or time.perf_counter() > end:
                continue
            try:
                figures = measure()
            except Exception as error:  # one row must not end the others
                figures = {"error": f"{type(error).__name__}: {error!s:.300}"}
            results.setdefault(name, {})[label] = figures
            record = {"machine": machine() | card(), "versions": versions(), "results": results}
            write(path, {"date": time.strftime("%Y-%m-%d"), **record})
            print(name, label, json.dumps(figures), flush=True)
            torch.compiler.reset()
            gc.collect()
            if setup.device == "cuda":
                torch.cuda.empty_cache()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"any of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--seconds", type=float, default=400.0)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file; default: benchmarks/results")
    given = parser.parse_args()
    if unknown := set(given.sections) - SECTIONS.keys():
        parser.error(f"unknown sections {', '.join(sorted(unknown))}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --tiny tests this script")
    path = given.output or (Path("runs/tiny") if given.tiny else RESULTS) / "gpu.json"
    setup = Setup(given.device, given.tiny, path.parent)
    run(setup, given.sections or list(SECTIONS), given.seconds, path)


if __name__ == "__main__":
    main()
