"""Write the measured results to the docs pages: `python -m benchmarks.tables`.

Tables are generated from the JSON files in results and inserted between markers in the pages. Only
networks with results have rows. The numbers of networks in the README and on the page of goals are
also generated, and so are the plots. Tests compare the pages and the plots with the files.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cnnarch
from benchmarks import (
    claims,
    every_network,
    front_page,
    goals,
    gpu_tables,
    gpu_zoo,
    inference,
    int8_accuracy,
    transfer,
    zoo,
)
from benchmarks.measure import RESULTS, results, results_by_machine
from benchmarks.pairs import PAIRS
from cnnarch.facts.builders import families

DOCS = RESULTS.parent.parent / "docs"
README = DOCS.parent / "README.md"
NOT_YET = "Not measured yet."


def replace_table(page: str, name: str, table: str) -> str:
    """Return a page with `table` between the markers `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page has no such markers.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found, remainder = page.partition(start)
    _, closed, after = remainder.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no markers for the table {name!r}")
    return f"{before}{start}\n\n{table}\n\n{end}{after}"


def tables_of(question: str, table: Callable[[dict[str, Any]], str]) -> str:
    """Return one table for each machine."""
    kept = results_by_machine(question)
    return "\n\n".join(f"{machine}:\n\n{table(rows)}" for machine, rows in kept.items())


def eager_table(kept: dict[str, Any]) -> str:
    """Return the table of plain forward passes, in milliseconds per batch."""
    lines = [
        "| network | theirs | cnnarch | ratio |",
        "|---|--:|--:|--:|",
    ]
    for name, row in kept.items():
        if isinstance(row, dict):
            times = f"{row['theirs_ms']:.1f} | {row['ours_ms']:.1f}"
            lines.append(f"| {name} | {times} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def training_table(kept: dict[str, Any]) -> str:
    """Return the table of training steps, in milliseconds."""
    lines = [
        "| network | theirs | plain | ratio, plain | float32 | bfloat16 | chosen | ratio |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for name, row in kept.items():
        if isinstance(row, dict):
            theirs, plain, *own = (
                f"{row[f'{k}_ms']:.0f}" if f"{k}_ms" in row else ""
                for k in ("theirs", "plain", "32-true", "bf16-mixed")
            )
            lines.append(
                f"| {name} | {theirs} | {plain} | {row['ratio plain']:.2f} | {' | '.join(own)} "
                f"| {row['chosen']} | {row['ratio']:.2f} |"
            )
    return "\n".join(lines)


def int8_table(kept: dict[str, Any] | None) -> str:
    """Return the table of int8 accuracies on the test images, in percent."""
    engines = int8_accuracy.ENGINES
    head = ["network", "steps", "float32", *(f"int8, {engine}" for engine in engines), "lost"]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for network, row in (kept["networks"] if kept else {}).items():
        steps = "shipped" if row["steps"] is None else row["steps"]
        kept_rates = [row[name] for name in ("float32", *engines)]
        rates = " | ".join(f"{r:.2f}" if isinstance(r, float) else "rejected" for r in kept_rates)
        lines.append(f"| {network} | {steps} | {rates} | {row['points_lost']:.2f} |")
    return "\n".join(lines)


def unmeasured() -> str:
    """Return a sentence with the numbers of networks that have no results on any machine."""
    rows = {row for kept in results_by_machine("eager").values() for row in kept}
    pairs, networks = {pair.network for pair in PAIRS}, set(cnnarch.list_models())
    left = pairs - {row.partition(",")[0] for row in rows}
    others = networks - every_network.saved_rows().keys()
    return (
        "Only measured networks have rows. Not measured yet: "
        f"{len(left)} of the {len(pairs)} networks that are compared with another library, and "
        f"{len(others)} of the {len(networks)} under [Every network](speed.md#every-network)."
    )


def count_networks(page: str) -> str:
    """Return a page with the current numbers in the words "N networks in M families".

    Raises:
        ValueError: the page does not contain these words exactly once.
    """
    words = f"{len(cnnarch.list_models())} networks in {len(families())} families"
    page, found = re.subn(r"\d+ networks in \d+ families", words, page)
    if found != 1:
        raise ValueError(f"the page says how many networks there are {found} times, not once")
    return page


def pages() -> dict[Path, str]:
    """Return the text of each page with its tables."""
    names = ("speed", "speed_goals", "zoo", "transfer")
    speed, goals_page, zoo_page, transfer_page = (DOCS / f"{name}.md" for name in names)
    text = {page: page.read_text() for page in (speed, goals_page, zoo_page, transfer_page)}
    for page, name, table in (
        (transfer_page, "transfer", transfer.table()),
        (zoo_page, "zoo", zoo.table()),
        (goals_page, "bars", goals.summary()),
        (speed, "batch 1", inference.tables(1)),
        (speed, "batch 16", inference.tables(16)),
        (speed, "eager", tables_of("eager", eager_table)),
        (speed, "training", tables_of("training_step", training_table)),
        (speed, "int8", int8_table(results("int8_accuracy"))),
        (speed, "every network", every_network.table()),
    ):
        text[page] = replace_table(text[page], name, table if _has_rows(table) else NOT_YET)
    text[zoo_page] = replace_table(text[zoo_page], "zoo on a GPU", gpu_zoo.table())
    text[speed] = replace_table(text[speed], "claims", claims.text())
    text[goals_page] = replace_table(text[goals_page], "unmeasured", unmeasured())
    for page, docs in ((README, "docs/"), (DOCS / "index.md", "")):
        counted = count_networks(page.read_text())
        text[page] = replace_table(counted, "front page", front_page.text(docs))
    gpu_page = DOCS / "gpu.md"
    text[gpu_page] = replace_table(gpu_page.read_text(), "gpu", gpu_tables.text())
    return text


def _has_rows(table: str) -> bool:
    """Return whether a table has more than a header."""
    return table.count("\n") > 1


if __name__ == "__main__":
    from benchmarks.plots import write_plots

    for page, text in pages().items():
        page.write_text(text)
    write_plots(DOCS / "_static")
