"""Does every network go through `cnnarch.inference.optimize`, and what does it gain?

    python -m benchmarks.every_network            all of them; a run that was stopped goes on
    python -m benchmarks.every_network resnet18   that one

One image of the network's own size, backend "auto", float32. A network is measured in a process
of its own and kept in results/every_network.json as it ends. Weights are random.
"""

import json
import subprocess
import sys
import warnings
from typing import Any

import torch

import cnnarch
from benchmarks.measure import RESULTS, machine, versions, write

FILE = RESULTS / "every_network.json"
BUDGET_S = 20


def measure(name: str) -> dict[str, Any]:
    """What `optimize` chose for a network, and every candidate."""
    torch.manual_seed(0)
    size = cnnarch.get_card(name).input_size
    model = cnnarch.get_model(name).eval()
    with warnings.catch_warnings():  # logits of untrained networks hardly depend on the image
        warnings.filterwarnings("ignore", "The logits hardly depend on the images")
        fast = cnnarch.inference.optimize(model, torch.randn(1, *size), budget_s=BUDGET_S)
    chosen = fast.report.chosen
    plain = next(c for c in fast.report.candidates if c.engine == "plain")
    return {
        "input_size": size,
        "chosen": chosen.engine,
        "plain_ms": plain.milliseconds,
        "milliseconds": chosen.milliseconds,
        "difference": chosen.difference,
        "verdicts": {c.engine: c.verdict for c in fast.report.candidates},
    }


def done() -> dict[str, Any]:
    """The networks that are measured, by name."""
    return json.loads(FILE.read_text())["networks"] if FILE.exists() else {}


def one(name: str) -> None:
    """Measure a network and keep what came out."""
    networks = {**done(), name: measure(name)}
    record = {
        "command": "python -m benchmarks.every_network",
        "budget_s": BUDGET_S,
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
        "| network | pixels | plain, ms | optimised, ms | ratio | engine | difference |",
        "|---|--:|--:|--:|--:|---|--:|",
    ]
    kept = done()
    for name in [n for n in cnnarch.list_models() if n in kept]:
        row = kept[name]
        before, after = row["plain_ms"], row["milliseconds"]
        times = "| | " if before is None else f"| {before:.3g} | {after:.3g} | {after / before:.2f}"
        lines.append(
            f"| {name} | {row['input_size'][1]} {times} | {row['chosen']} "
            f"| {row['difference']:.0e} |"
        )
    lines += ["", f"{len(kept)} of {len(cnnarch.list_models())} networks are measured."]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    if len(names) == 1:
        one(names[0])
        return
    for name in names or [n for n in cnnarch.list_models() if n not in done()]:
        command = [sys.executable, "-m", "benchmarks.every_network", name]
        subprocess.run(command, check=True)
    print(table())


if __name__ == "__main__":
    main(sys.argv[1:])
