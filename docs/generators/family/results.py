"""Measured accuracy on Fashion-MNIST, and measured speed, from the files of the benchmarks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cnnarch.facts.cards import ModelCard
from cnnarch.facts.text import shape_text

from ..text import table, without_empty_columns

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


@cache
def read(path: Path) -> Any:
    return json.loads(path.read_text())


def zoo_section(cards: Sequence[ModelCard]) -> list[str]:
    """Return the family's rows of the zoo; nothing if there are none."""
    paths = [RESULTS / f"zoo/{card.name}.json" for card in cards]
    found = [read(path) for path in paths if path.exists()]
    if not found:
        return []
    rows = [
        (
            f"`{row['network']}`",
            f"{row['parameters']:,}",
            shape_text((row["image_resolution"],) * 2),
            str(row["epochs"]),
            f"{row['cpu_minutes']:.1f}",
            f"{100 * row['accuracy']:.2f}%",
            f"{100 * row['published']:.2f}%" if row["published"] else "",
            row["published_as"],
        )
        for row in found
    ]
    head = ("network", "parameters", "image", "epochs", "core minutes", "test accuracy")
    head += ("published", "as")
    text = (
        f"On {_machines(found)}. “Published” is what others report for a "
        "network of this kind with other settings. [The laptop zoo](../zoo.md) has the recipes."
    )
    return ["## Trained on Fashion-MNIST", text, table(*without_empty_columns(head, rows))]


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the machines and dates of some results."""
    names = {f"{machine_name(record['machine'])} ({record['date']})": None for record in records}
    return ", ".join(names)


def machine_name(machine: Mapping[str, Any]) -> str:
    processor = machine["processor"].replace("(R)", "").removesuffix(" Processor")
    parts = (processor, machine.get("instructions"), f"{machine['cores']} cores")
    return ", ".join(part for part in parts if part)


def speed_section(cards: Sequence[ModelCard]) -> list[str]:
    """Return the measured times of the family's networks; nothing if there are none."""
    names = [card.name for card in cards]
    parts = [*_optimized(names), *_eager(names)]
    more = "[How fast](../speed.md) lists all measurements and says how they were made."
    return ["## Speed", more, *parts] if parts else []


def _optimized(names: Sequence[str]) -> Iterator[str]:
    """Yield the times that `optimize` found for one image on a CPU."""
    record = read(RESULTS / "every_network.json")
    kept = {name: record["networks"][name] for name in names if name in record["networks"]}
    rows = [
        (
            f"`{name}`",
            f"{row['plain_ms']:.1f}" if row["plain_ms"] else "",
            f"{row['milliseconds']:.1f}" if row["milliseconds"] else "",
            f"{row['plain_ms'] / row['milliseconds']:.1f} x" if row["plain_ms"] else "",
            row["chosen"],
        )
        for name, row in kept.items()
    ]
    if rows:
        yield (
            "Milliseconds for one image, as written and after `cnnarch.inference.optimize`, on "
            f"{machine_name(record['machine'])}, with PyTorch {record['versions']['torch']}:"
        )
        yield table(("network", "as written", "optimized", "faster", "engine"), rows)


def _eager(names: Sequence[str]) -> Iterator[str]:
    """Yield plain forward passes beside those of the same network in another library."""
    rows = []
    for path in sorted(RESULTS.glob("eager*/*.json")):
        record = read(path)
        place = (machine_name(record["machine"]), record["date"])
        for row, times in record["results"].items():
            name, _, how = row.partition(", ")
            if name in names and isinstance(times, dict):
                ms = (f"{times[f'{whose}_ms']:.1f}" for whose in ("theirs", "ours"))
                rows.append((f"`{name}`", how, *ms, f"{times['ratio']:.2f}", *place))
    if rows:
        head = ("network", "images", "other library", "cnnarch", "ratio", "machine", "date")
        yield (
            "Milliseconds for a plain forward pass beside the same network of another library. "
            "Each column, the ratio too, is a median over several processes:"
        )
        yield table(head, rows)
