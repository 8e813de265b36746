"""Does `cnnarch.inference.optimize` work for every network, and how much faster is the result?

    python -m benchmarks.every_network               all of them; resumes an interrupted run
    python -m benchmarks.every_network resnet18 60   that one, with a budget in seconds

It uses one image of the network's input size, backend "auto" and float32. Each network has random
weights and is measured in its own process, and its row is saved to results/every_network.json. If
the budget allowed only PyTorch's engines, the network is measured again with a longer budget.
"""

import copy
import json
import statistics
import subprocess
import sys
import warnings
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

import cnnarch
from benchmarks.measure import RESULTS, check_machine, machine, versions, write
from cnnarch.inference._measure import difference

FILE = RESULTS / "every_network.json"
BUDGET_S = 20
IN_PYTORCH = ("plain", "eager", "inductor")
LONGER_S = 60  # the default of optimize
ROUNDING = 2e-5  # a fifth of optimize's tolerance


def measure(name: str, budget_s: float) -> dict[str, Any]:
    """Return the candidate that `optimize` chose for a network, and each engine's verdict."""
    torch.manual_seed(0)
    x = torch.randn(1, *cnnarch.get_card(name).input_size)
    model = cnnarch.get_model(name).eval()
    # With untrained BatchNorm statistics, values grow from block to block until float32 is too
    # imprecise in the deepest networks, which therefore use statistics computed from one image.
    if rounding(model, x) > ROUNDING:
        update_bn([x], model)
    with warnings.catch_warnings():  # logits of untrained networks hardly depend on the image
        warnings.filterwarnings("ignore", "The logits hardly depend on the images")
        fast = cnnarch.inference.optimize(model, x, budget_s=budget_s)
    chosen = fast.report.chosen
    plain = next(c for c in fast.report.candidates if c.engine == "plain")
    return {
        "input_size": tuple(x.shape[1:]),
        "budget_s": budget_s,
        "chosen": chosen.engine,
        "plain_ms": plain.milliseconds,
        "milliseconds": chosen.milliseconds,
        "difference": chosen.difference,
        "verdicts": {c.engine: c.verdict for c in fast.report.candidates},
    }


def rounding(model: nn.Module, x: torch.Tensor) -> float:
    """Return the largest float32 rounding error of a logit, relative to the largest logit."""
    with torch.no_grad():
        return difference(model(x), copy.deepcopy(model).double()(x.double()))


def saved_rows() -> dict[str, Any]:
    """Return the measured networks by name."""
    return json.loads(FILE.read_text())["networks"] if FILE.exists() else {}


def untried(row: dict[str, Any]) -> bool:
    """Return whether the budget was too short for every engine outside PyTorch."""
    engines = [verdict for engine, verdict in row["verdicts"].items() if engine not in IN_PYTORCH]
    return all(verdict.startswith("not tried") for verdict in engines)


def measure_and_save(name: str, budget_s: float = BUDGET_S) -> None:
    """Measure a network and save its row.

    Raises:
        ValueError: the saved rows were measured on a different machine.
    """
    check_machine(FILE)
    networks = {**saved_rows(), name: measure(name, budget_s)}
    record = {
        "command": "python -m benchmarks.every_network",
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "versions": versions(),
        "networks": networks,
    }
    write(FILE, record)
    print(name, networks[name]["chosen"], networks[name]["verdicts"], flush=True)


def table() -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| network | pixels | budget | plain, ms | optimized, ms | ratio | engine | difference |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    kept, ratios = saved_rows(), []
    for name in [n for n in cnnarch.list_models() if n in kept]:
        row = kept[name]
        before, after = row["plain_ms"], row["milliseconds"]
        times = "| | |"
        if before is not None:
            ratios.append(after / before)
            times = f"| {before:.3g} | {after:.3g} | {ratios[-1]:.2f}"
        start = f"| {name} | {row['input_size'][1]} | {row['budget_s']:.0f} s"
        lines.append(f"{start} {times} | {row['chosen']} | {row['difference']:.0e} |")
    summary = f"{len(kept)} networks are measured"
    if ratios:
        mean = statistics.geometric_mean(ratios)
        summary += f"; the geometric mean of the {len(ratios)} ratios is {mean:.2f}"
    lines += ["", f"{summary}."]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    if arguments:
        measure_and_save(arguments[0], *map(float, arguments[1:]))
        return
    command = [sys.executable, "-m", "benchmarks.every_network"]
    for name in [n for n in cnnarch.list_models() if n not in saved_rows()]:
        subprocess.run([*command, name], check=True)
    for name, row in saved_rows().items():
        if untried(row) and row["budget_s"] < LONGER_S:
            subprocess.run([*command, name, str(LONGER_S)], check=True)
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
