"""Does every network go through `cnnarch.inference.optimize`, and what does it gain?

    python -m benchmarks.every_network               all of them; a run that was stopped goes on
    python -m benchmarks.every_network resnet18 60   that one, with a budget of so many seconds

One image of the network's own size, backend "auto", float32. A network is measured in a process
of its own and kept in results/every_network.json as it ends. Weights are random. Where the budget
left no engine a try, the network is measured once more with the longer one.
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
LONGER_S = 60  # what optimize takes if it is not told
ROUNDING = 2e-5  # a fifth of optimize's tolerance


def measure(name: str, budget_s: float) -> dict[str, Any]:
    """What `optimize` chose for a network, and every candidate."""
    torch.manual_seed(0)
    x = torch.randn(1, *cnnarch.get_card(name).input_size)
    model = cnnarch.get_model(name).eval()
    # Untrained statistics let values grow from block to block, in the deepest networks until
    # nothing is right in float32, whatever runs it. Those of one image end that.
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
    """How far the logits in float32 are from those in float64, of the largest."""
    with torch.no_grad():
        return difference(model(x), copy.deepcopy(model).double()(x.double()))


def done() -> dict[str, Any]:
    """The networks that are measured, by name."""
    return json.loads(FILE.read_text())["networks"] if FILE.exists() else {}


def untried(row: dict[str, Any]) -> bool:
    """Whether the budget left none but PyTorch itself."""
    engines = [verdict for engine, verdict in row["verdicts"].items() if engine not in IN_PYTORCH]
    return all(verdict.startswith("not tried") for verdict in engines)


def one(name: str, budget_s: float = BUDGET_S) -> None:
    """Measure a network and keep what came out.

    Raises:
        ValueError: the others were measured on another machine.
    """
    check_machine(FILE)
    networks = {**done(), name: measure(name, budget_s)}
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
    """What became of each, as Markdown."""
    lines = [
        "| network | pixels | budget | plain, ms | optimised, ms | ratio | engine | difference |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    kept, ratios = done(), []
    for name in [n for n in cnnarch.list_models() if n in kept]:
        row = kept[name]
        before, after = row["plain_ms"], row["milliseconds"]
        times = "| | |"
        if before is not None:
            ratios.append(after / before)
            times = f"| {before:.3g} | {after:.3g} | {ratios[-1]:.2f}"
        told = f"| {name} | {row['input_size'][1]} | {row['budget_s']:.0f} s"
        lines.append(f"{told} {times} | {row['chosen']} | {row['difference']:.0e} |")
    words = f"{len(kept)} networks are measured"
    if ratios:
        mean = statistics.geometric_mean(ratios)
        words += f"; the geometric mean of the {len(ratios)} ratios is {mean:.2f}"
    lines += ["", f"{words}."]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    if words:
        one(words[0], *map(float, words[1:]))
        return
    command = [sys.executable, "-m", "benchmarks.every_network"]
    for name in [n for n in cnnarch.list_models() if n not in done()]:
        subprocess.run([*command, name], check=True)
    for name, row in done().items():
        if untried(row) and row["budget_s"] < LONGER_S:
            subprocess.run([*command, name, str(LONGER_S)], check=True)
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
