"""Generate the data of the explorer: all networks and all checkpoints as JSON inside the page."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cnnarch
from benchmarks.measure import RESULTS, machine_name, results_by_machine
from benchmarks.pairs import INPUT_SIZE
from cnnarch.facts.cards import ModelCard
from cnnarch.weights import Weights, get_weights
from cnnarch.weights.costs import cost_of
from cnnarch.weights.selection import imagenet_top1

from .text import write

Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by kind ("plain, AMD EPYC, AVX2") and network."""

MIN_NETWORKS = 10  # a machine that timed fewer networks has no column
HUB = "hf-hub:"


def write_pages(folder: Path) -> None:
    """Write the data and the text about it to the folder of generated pages."""
    folder.mkdir(exist_ok=True)
    cards = [cnnarch.get_card(name) for name in cnnarch.list_models()]
    data = facts(cards, measured_times())
    write(folder / "explorer.html", as_script(data))
    write(folder / "explorer.txt", description(data))


def as_script(data: Any) -> str:
    """Return data as an HTML element that scripts can read."""
    text = json.dumps(data, separators=(",", ":")).replace("</", r"<\/")
    return f'<script type="application/json" id="explorer-data">{text}</script>\n'


def facts(cards: list[ModelCard], times: Times) -> dict[str, Any]:
    """Return the rows of both tables. Values that are unknown are missing."""
    keys = {kind: re.sub(r"\W+", "_", kind).lower() for kind in times}
    return {
        "times": [{"key": key, "kind": kind} for kind, key in keys.items()],
        "networks": [network_row(card, times, keys) for card in cards],
        "checkpoints": [
            checkpoint_row(card, weights)
            for card in cards
            for weights in get_weights(card.name).values()
        ],
    }


def network_row(card: ModelCard, times: Times, keys: Mapping[str, str]) -> dict[str, Any]:
    measured = {keys[kind]: found.get(card.name) for kind, found in times.items()}
    row = {
        "name": card.name,
        "family": card.family,
        "year": card.year,
        "params": card.params,
        "macs": card.macs,
        "input": card.input_size,
        **{key: float(f"{ms:.4g}") for key, ms in measured.items() if ms is not None},
    }
    return {key: value for key, value in row.items() if value is not None}


def checkpoint_row(card: ModelCard, weights: Weights) -> dict[str, Any]:
    """Return the facts about a checkpoint.

    "rates" marks those whose accuracies count for the network, as in `cnnarch.list_models`.
    """
    cost = cost_of(weights)
    row = {
        "network": card.name,
        "tag": weights.tag,
        "pixels": cost.input_size[1],
        "params": cost.params,
        "macs": cost.macs,
        "rates": imagenet_top1(card, weights, cost) is not None or None,
        "top1": weights.metrics.get("acc@1"),
        "top5": weights.metrics.get("acc@5"),
        "dataset": weights.dataset,
        **license_of(weights),
        **source_of(weights),
    }
    return {key: value for key, value in row.items() if value is not None}


def license_of(weights: Weights) -> dict[str, str]:
    """Return the name of a license in lower case; only its link if it has no name."""
    if "://" in weights.license:
        return {"license": "its own", "license_url": weights.license}
    return {"license": weights.license.lower()}


def source_of(weights: Weights) -> dict[str, str]:
    """Return the library, and the page that publishes the accuracy or else the checkpoint."""
    url = weights.metrics_source or weights.source or weights.url
    if url.startswith(HUB):
        url = f"https://huggingface.co/{url.removeprefix(HUB)}"
    return {"source": weights.layout, **({"source_url": url} if "://" in url else {})}


def measured_times() -> Times:
    """Return the times for one image of each network's own size, of plain and optimized runs."""
    record = json.loads((RESULTS / "every_network.json").read_text())
    machine = machine_name(record["machine"])
    plain = {machine: column(record["networks"], "plain_ms")}
    for question in ("eager", "eager_once"):
        for name, results in results_by_machine(question).items():
            plain[name] = {**eager_times(results), **plain.get(name, {})}
    times = {f"plain, {name}": found for name, found in plain.items()}
    times[f"optimized, {machine}"] = column(record["networks"], "milliseconds")
    return {kind: found for kind, found in times.items() if len(found) >= MIN_NETWORKS}


def column(rows: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    return {name: row[key] for name, row in rows.items() if row[key] is not None}


def eager_times(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the times for one image. All images of this benchmark have the same size."""
    rows = {name.partition(", batch 1")[0]: name for name in results if name.endswith(", batch 1")}
    return {
        network: results[name]["ours_ms"]
        for network, name in rows.items()
        if cnnarch.get_card(network).input_size == INPUT_SIZE
    }


def description(data: Mapping[str, Any]) -> str:
    """Return the numbers of rows and of measured times."""
    networks, checkpoints = data["networks"], data["checkpoints"]
    counts = [
        f"{sum(time['key'] in row for row in networks)} networks ({time['kind']})"
        for time in data["times"]
    ]
    return (
        f"There are {len(networks)} networks and {len(checkpoints)} checkpoints. "
        f"Times exist for {', '.join(counts)}.\n"
    )
