"""The tables of the page "On a GPU", from the JSON file that `python -m benchmarks.gpu` writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS

NOT_YET = "Nothing has been measured on a GPU with this version yet."
TITLES = {
    "check": "Logits and bfloat16 gradients compared with those of the CPU",
    "infer": "Inference, milliseconds per batch",
    "train": "Training steps, in bfloat16",
    "fit": "Epochs of `fit`",
    "folder": "Classifying a folder",
    "zoo": "Accuracy on Fashion-MNIST",
}


def text(path: Path = RESULTS / "gpu.json") -> str:
    """Return where and when the results were measured, and one table for each kind of row."""
    if not path.exists():
        return NOT_YET
    record = json.loads(path.read_text())
    card, packages = record["machine"], record["versions"]
    memory = card["memory_bytes"] / 2**30
    parts = [
        f"Measured on {record['date']} on one {card['card']} ({memory:.0f} GiB) with PyTorch "
        f"{packages['torch']} and CUDA {card['cuda']}, by `python -m benchmarks.gpu`."
    ]
    for section, title in TITLES.items():
        rows = record["results"].get(section, {})
        if rows:
            parts += [f"{title}:", *_tables(rows)]
    return "\n\n".join(parts)


def _tables(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one table for each set of columns; rows that failed contain their error."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for label, row in rows.items():
        figures = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
        cells = " | ".join([label, *map(_cell, figures.values())])
        groups.setdefault(tuple(figures), []).append(f"| {cells} |")
    return [
        "\n".join(
            [f"| | {' | '.join(map(_head, keys))} |", "|---" + "|--:" * len(keys) + "|", *lines]
        )
        for keys, lines in groups.items()
    ]


def _head(key: str) -> str:
    """Return a column's title: "reduce-overhead_ms" becomes "reduce-overhead"."""
    return key.removesuffix("_ms").replace("_per_s", "/s").removesuffix("_s").replace("_", " ")


def _cell(value: str | float) -> str:
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
