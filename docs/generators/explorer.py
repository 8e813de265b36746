"""Generate the data of the explorer: all networks and all checkpoints as JSON inside the page."""

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import cnnarch
from benchmarks.measure import RESULTS, machine_name, results_by_machine
from benchmarks.pairs import INPUT_SIZE
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.cards import ModelCard
from cnnarch.weights import Weights, get_weights

from .text import write

Counts = tuple[int, int]
"""The parameters and the MACs of a network."""
Count = Callable[[str, tuple[tuple[str, Any], ...], tuple[int, ...]], Counts]
"""Counts for a network's name, its options and the size of an image."""
Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by kind ("plain, AMD EPYC, AVX2") and network."""

MIN_NETWORKS = 10  # a machine that timed fewer networks has no column
HUB = "hf-hub:"


def write_pages(folder: Path, count: Count | None = None) -> None:
    """Write the data and the text about it to `folder`.

    Args:
        folder: the folder of generated pages.
        count: counts for checkpoints whose options and image size no fact sheet lists.
    """
    folder.mkdir(exist_ok=True)
    cards = [cnnarch.get_card(name) for name in cnnarch.list_models()]
    data = facts(cards, measured_times(), cache(count or count_on_meta))
    write(folder / "explorer.html", as_script(data))
    write(folder / "explorer.txt", description(data))


def as_script(data: Any) -> str:
    """Return data as an HTML element that scripts can read."""
    text = json.dumps(data, separators=(",", ":")).replace("</", r"<\/")
    return f'<script type="application/json" id="explorer-data">{text}</script>\n'


def count_on_meta(
    network: str, options: tuple[tuple[str, Any], ...], size: tuple[int, ...]
) -> Counts:
    with torch.device("meta"):
        model = cnnarch.get_model(network, **dict(options))
    return count_parameters(model), count_macs(model, size)


def facts(cards: list[ModelCard], times: Times, count: Count) -> dict[str, Any]:
    """Return the rows of both tables. Values that are unknown are missing."""
    keys = {kind: re.sub(r"\W+", "_", kind).lower() for kind in times}
    return {
        "times": [{"key": key, "kind": kind} for kind, key in keys.items()],
        "networks": [network_row(card, times, keys) for card in cards],
        "checkpoints": [
            checkpoint_row(card, weights, count)
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


def checkpoint_row(card: ModelCard, weights: Weights, count: Count) -> dict[str, Any]:
    size, counts = image_size(card, weights), counts_of(card, weights, count)
    row = {
        "network": card.name,
        "tag": weights.tag,
        "pixels": size[1],
        "params": counts and counts[0],
        "macs": counts and counts[1],
        "top1": weights.metrics.get("acc@1"),
        "top5": weights.metrics.get("acc@5"),
        "dataset": weights.dataset,
        **license_of(weights),
        **source_of(weights),
    }
    return {key: value for key, value in row.items() if value is not None}


def image_size(card: ModelCard, weights: Weights) -> tuple[int, int, int]:
    channels, side, _ = card.input_size
    side = weights.preprocessing.crop_size if weights.preprocessing else side
    return (weights.in_channels or channels, side, side)


def counts_of(card: ModelCard, weights: Weights, count: Count) -> Counts:
    """Return the sheet's counts if it lists the checkpoint's form, and otherwise count."""
    size, options = image_size(card, weights), dict(weights.options)
    if weights.num_classes not in (None, card.num_classes):
        options["num_classes"] = weights.num_classes
    if size[0] != card.input_size[0]:
        options["in_channels"] = size[0]
    for form in card.all_rows():
        if form.options == options and form.input_size == size:
            return form.params, form.macs
    return count(card.name, tuple(sorted(options.items())), size)


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
