"""Time functions alternately, and save the results with the machine and versions."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from cnnarch.weights.files import atomic_write

PAUSE = 0.02  # seconds after which the threads of OpenMP and ONNX Runtime sleep
SETTLE = 0.02  # seconds of untimed calls
RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "cnnarch",
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "pillow",
    "onnxruntime",
    "openvino",
    "nncf",
    "torchao",
)


def alternate(
    candidates: Mapping[str, Callable[[], object]],
    runs: int = 15,
    warmup: int = 3,
    settle: bool = False,
    within: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> dict[str, list[float]]:
    """Time functions alternately (A B A B ...), so that drift affects all of them equally.

    Args:
        candidates: functions to call, by name.
        runs: number of timed calls to each function.
        warmup: number of initial calls to each function that are not timed.
        settle: start each turn with a pause and untimed calls. This is for engines with their own
            threads: the previous engine's threads spin for a while, and after ONNX Runtime, the
            first four calls to OpenVINO take up to twice as long.
        within: maps a function's name to a context manager that is entered for its turn.

    Returns:
        The duration of each timed call in seconds, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for run in range(-warmup, runs):
        for name, call in candidates.items():
            with within(name):
                if settle:
                    time.sleep(PAUSE)
                    settled = time.perf_counter() + SETTLE
                    call()
                    while time.perf_counter() < settled:
                        call()
                start = time.perf_counter()
                call()
                end = time.perf_counter()
            if run >= 0:
                seconds[name].append(end - start)
    return seconds


def alternate_processes(
    candidates: Mapping[str, str], runs: int = 11, arguments: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Alternately run Python processes with the given code, and time each process."""

    def process(code: str) -> Callable[[], object]:
        command = [sys.executable, "-c", code, *arguments]
        return lambda: subprocess.run(command, check=True, capture_output=True)

    return alternate({name: process(code) for name, code in candidates.items()}, runs, 1)


def ratio_of_medians(seconds: Mapping[str, Sequence[float]], ours: str, theirs: str) -> float:
    """Return the median time of `ours` divided by that of `theirs`."""
    return statistics.median(seconds[ours]) / statistics.median(seconds[theirs])


def keep(question: str, bar: str, results: Any, path: Path | None = None) -> None:
    """Print results and write them to results/QUESTION.json, or to `path`."""
    record = {
        "question": question,
        "bar": bar,
        "command": " ".join(["python", "-m", f"benchmarks.{question}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(),
        "results": results,
    }
    write(path or RESULTS / f"{question}.json", record)
    print(json.dumps(record, indent=2))


def write(path: Path, record: Any) -> None:
    """Write results as JSON atomically, so that an interrupted run leaves no partial file."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(record, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """Return the machine properties that the results depend on."""
    from cnnarch.training.machine import cpu_name  # deferred: it imports Lightning

    return {
        "processor": cpu_name(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def card() -> dict[str, Any]:
    """Return the GPU's name and memory and the versions of its driver and libraries, if any."""
    if not torch.cuda.is_available():
        return {}
    properties = torch.cuda.get_device_properties(0)
    return {
        "card": properties.name,
        "memory_bytes": properties.total_memory,
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }


def driver() -> str | None:
    """Return the version of NVIDIA's driver, or None if nvidia-smi does not report it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(found.split()), None)


def machine_name(machine: Mapping[str, Any]) -> str:
    """Return a machine's name for tables, including the instructions its processor supports."""
    processor = machine["processor"].replace("(R)", "").removesuffix(" Processor")
    return ", ".join(filter(None, [processor, machine.get("instructions")]))


def machine_file(question: str) -> Path:
    """Return the path of this machine's results for a question."""
    here = re.sub(r"\W+", "-", machine_name(machine())).strip("-").lower()
    return RESULTS / question / f"{here}.json"


def saved_record(question: str) -> dict[str, Any]:
    """Return what `keep` has saved for a question, or {} if it has not been measured yet."""
    path = RESULTS / f"{question}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def results(question: str) -> Any:
    """Return the saved results of a question, or None if it has not been measured yet."""
    return saved_record(question).get("results")


def records_by_machine(question: str) -> dict[str, dict[str, Any]]:
    """Return what each machine has saved for a question, by machine name."""
    records = [json.loads(path.read_text()) for path in sorted((RESULTS / question).glob("*.json"))]
    return {machine_name(record["machine"]): record for record in records}


def results_by_machine(question: str) -> dict[str, Any]:
    """Return the results of a question by machine name."""
    return {name: record["results"] for name, record in records_by_machine(question).items()}


def check_machine(path: Path) -> None:
    """Raise ValueError if the file contains results from a different machine."""
    if path.exists():
        kept = json.loads(path.read_text())["machine"]
        if kept != machine():
            raise ValueError(
                f"{path} was measured on {machine_name(kept)}; delete it to measure on this machine"
            )


def instructions() -> str:
    """Return the processor's fastest instruction set for neural networks."""
    known = {
        "amx_bf16": "AMX",
        "avx512_bf16": "AVX-512 BF16",
        "avx512_f": "AVX-512",
        "avx2": "AVX2",
    }
    capabilities = torch.cpu.get_capabilities()
    return next((name for flag, name in known.items() if capabilities.get(flag)), "")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
