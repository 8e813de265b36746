"""How much faster is `cnnarch.inference.optimize` than eager mode and the engines used directly?

    python -m benchmarks.inference                    every network, batch 1 and 16
    python -m benchmarks.inference resnet50 1         one network and batch size
    python -m benchmarks.inference --table            print the results so far

Each network and batch size is measured in its own process and saved to results/inference/MACHINE,
so an interrupted run can be resumed. The candidates in a row are timed alternately (A B A B).
"""

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import (
    RESULTS,
    alternate,
    keep,
    machine,
    machine_file,
    machine_name,
    ratio_of_medians,
    versions,
    write,
)
from benchmarks.pairs import PAIRS, Pair, images

BAR = "geometric means vs. eager at batch 1: float32 0.42x, bfloat16 0.22x, int8 0.17x; \
1.03x the better engine used directly, none above 1.1x"
FOLDER = RESULTS / "inference"
BATCHES = (1, 16)
IN_INT8 = ("resnet50", "mobilenet_v1", "efficientnet_b0", "densenet121")
CALIBRATION = 32  # images, enough for timing; benchmarks.int8_accuracy measures accuracy
SECONDS = 6.0  # approximate time to measure a candidate

Call = Callable[[], object]


def openvino_directly(model: nn.Module, x: torch.Tensor, hint: str) -> Call:
    """Prepare OpenVINO as described in its documentation, for one precision and a fixed shape."""
    from cnnarch.inference._offline import import_openvino

    openvino: Any = import_openvino()
    converted = openvino.convert_model(model, example_input=x)
    converted.reshape(list(x.shape))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(converted, "CPU", settings)
    request = compiled.create_infer_request()
    pixels = x.numpy()
    return lambda: request.infer([pixels])


def onnxruntime_directly(model: nn.Module, x: torch.Tensor) -> Call:
    """Prepare ONNX Runtime with a model exported by PyTorch."""
    from cnnarch.inference._offline import import_onnxruntime

    onnxruntime: Any = import_onnxruntime()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: x.numpy()}
    return lambda: session.run(None, feed)


@contextmanager
def candidates(pair: Pair, batch: int) -> Iterator[tuple[dict[str, Call], dict[str, str]]]:
    """Yield the functions to time and the reports of `optimize`."""
    from cnnarch.inference import optimize
    from cnnarch.training.machine import multiplies_bf16

    x = images(batch)
    theirs, ours = pair.theirs().eval(), pair.ours().eval()
    calls: dict[str, Call] = {"eager": lambda: theirs(x)}
    reports = {}
    opened = []
    bf16 = multiplies_bf16()
    precisions = ["float32", *(["bfloat16"] if bf16 else [])]
    precisions += ["int8"] if pair.network in IN_INT8 else []
    for precision in precisions:
        fast = optimize(
            ours,
            x,
            precision=precision,
            calibration=images(CALIBRATION) if precision == "int8" else None,
            # The top class is meaningless with random weights; only time is measured here.
            tolerance=1.0 if precision == "int8" else None,
        )
        opened.append(fast)
        reports[precision] = str(fast.report)
        calls[precision] = lambda fast=fast: fast(x)
    calls["openvino float32"] = openvino_directly(theirs, x, "f32")
    if bf16:
        calls["openvino bfloat16"] = openvino_directly(theirs, x, "bf16")
    calls["onnxruntime float32"] = onnxruntime_directly(theirs, x)
    try:
        yield calls, reports
    finally:
        for fast in opened:
            fast.close()


def measure(pair: Pair, batch: int) -> dict[str, Any]:
    """Return each candidate's time in milliseconds, and the ratios that the goals limit."""
    with candidates(pair, batch) as (calls, reports), torch.inference_mode():
        alone = alternate({"eager": calls["eager"]}, 3, 1)
        runs = int(min(40, max(5, SECONDS / 4 / statistics.median(alone["eager"]))))
        seconds = alternate(calls, runs, 1, settle=True)
    result: dict[str, Any] = {
        "network": pair.network,
        "twin": f"{pair.library} {pair.twin.name}",
        "batch": batch,
        "milliseconds": {k: 1000 * statistics.median(v) for k, v in seconds.items()},
        "over eager": {k: ratio_of_medians(seconds, k, "eager") for k in reports},
    }
    direct = {"float32": ["openvino float32", "onnxruntime float32"]}
    if "bfloat16" in seconds:
        direct["bfloat16"] = ["openvino bfloat16"]
    result["over the better engine"] = {
        precision: max(ratio_of_medians(seconds, precision, engine) for engine in engines)
        for precision, engines in direct.items()
    }
    return {**result, "runs": runs, "reports": reports}


def row_file(name: str, batch: int) -> Path:
    """Return the path of a row measured on this machine."""
    return machine_file("inference").with_suffix("") / f"{name}-{batch}.json"


def measure_and_save(name: str, batch: int) -> None:
    """Measure a row and save it."""
    pair = next(p for p in PAIRS if p.network == name)
    record = {**measure(pair, batch), "date": time.strftime("%Y-%m-%d")}
    record |= {"machine": machine(), "versions": versions()}
    gc.collect()
    write(row_file(name, batch), record)
    print(json.dumps(record["milliseconds"]), record["over the better engine"], flush=True)


def saved_rows() -> dict[str, list[dict[str, Any]]]:
    """Return the rows measured on each machine, in the order of the pairs."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in sorted(path for path in FOLDER.iterdir() if path.is_dir()):
        paths = [folder / f"{p.network}-{batch}.json" for batch in BATCHES for p in PAIRS]
        rows = [json.loads(path.read_text()) for path in paths if path.exists()]
        if rows:
            found[machine_name(rows[0]["machine"])] = rows
    return found


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the geometric means of the ratios over the networks."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for question in ("over eager", "over the better engine"):
            for precision, ratio in row[question].items():
                found.setdefault(f"{precision} {question}, batch {row['batch']}", []).append(ratio)
    return {name: statistics.geometric_mean(ratios) for name, ratios in found.items()}


def tables(batch: int) -> str:
    """Return milliseconds per image as Markdown, one table per machine."""
    kept = {name: [r for r in rows if r["batch"] == batch] for name, rows in saved_rows().items()}
    return "\n\n".join(
        f"{name}:\n\n{_table(rows)}\n\n{_summary(rows)}" for name, rows in kept.items() if rows
    )


def _summary(rows: list[dict[str, Any]]) -> str:
    found = [f"{name.partition(',')[0]} {ratio:.2f}x" for name, ratio in means(rows).items()]
    return f"Geometric means of the time ratios: {', '.join(found).replace(' over ', ' / ')}."


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ["eager", "float32", "bfloat16", "int8"]
    direct = ["openvino float32", "onnxruntime float32", "openvino bfloat16"]
    head = ["network", *columns, *direct]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for row in rows:
        times, batch = row["milliseconds"], row["batch"]
        cells = [f"{times[c] / batch:.1f}" if c in times else "" for c in columns + direct]
        lines.append(f"| {row['network']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if len(arguments) == 2:
        measure_and_save(arguments[0], int(arguments[1]))
        return
    if arguments != ["--table"]:
        for batch in BATCHES:
            for pair in PAIRS:
                if not row_file(pair.network, batch).exists():
                    command = [sys.executable, "-m", "benchmarks.inference", pair.network]
                    subprocess.run([*command, str(batch)], check=True)
    keep("inference", BAR, {name: means(rows) for name, rows in saved_rows().items()})
    print("\n\n".join(tables(batch) for batch in BATCHES))


if __name__ == "__main__":
    main(sys.argv[1:])
