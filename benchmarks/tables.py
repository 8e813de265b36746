"""Write the measured results to the docs pages: `python -m benchmarks.tables`.

Tables are generated from the JSON files in results and inserted between markers in the pages. Only
networks with results have rows. The numbers of networks in the README and on the speed page are
also generated. A test compares the pages with the files.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cnnarch
from benchmarks import (
    claims,
    eager,
    every_network,
    gpu_tables,
    gpu_zoo,
    inference,
    int8_accuracy,
    transfer,
    zoo,
)
from benchmarks.measure import RESULTS, results_by_machine
from benchmarks.pairs import PAIRS
from cnnarch.facts.builders import families

DOCS = RESULTS.parent.parent / "docs"
README = DOCS.parent / "README.md"
NOT_YET = "Not measured yet."


class Answer(NamedTuple):
    """A goal and the measured value.

    Args:
        question: a description of the value.
        bar: the goal: a maximum, or a minimum if `more` is true.
        measured: the measured value.
        more: whether larger values are better.
        form: the format string for both values.
        why: the reason, if the goal was missed and the reason is known.
    """

    question: str
    bar: float
    measured: float
    more: bool = False
    form: str = "{:.2f}x"
    why: str = ""

    @property
    def reached(self) -> bool:
        """Whether the goal was met."""
        return self.measured >= self.bar if self.more else self.measured <= self.bar


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


def results(question: str) -> Any:
    """Return the saved results of a question, or None if it has not been measured yet."""
    path = RESULTS / f"{question}.json"
    return json.loads(path.read_text())["results"] if path.exists() else None


def answers() -> list[Answer]:
    """Return all goals with the measured values."""
    found: list[Answer] = []
    for question, read in READERS.items():
        kept = results(question)
        if kept is not None:
            found += read(kept)
    for question, read_on in READERS_OF_MACHINES.items():
        for machine, kept in results_by_machine(question).items():
            found += read_on(kept, machine)
    return found


def summary() -> str:
    """Return the goals as a Markdown table."""
    lines = ["| measurement | goal | measured | |", "|---|--:|--:|---|"]
    for a in answers():
        bar = f"{'≥' if a.more else '≤'} {a.form.format(a.bar)}"
        missed = f"missed: {a.why}" if a.why else "missed"
        verdict = "reached" if a.reached else missed
        measured = a.form.format(a.measured)
        if not a.reached and measured == a.form.format(a.bar):  # show a third decimal
            measured = a.form.replace(".2f", ".3f").format(a.measured)
        lines.append(f"| {a.question} | {bar} | {measured} | {verdict} |")
    return "\n".join(lines)


def _optimized(kept: dict[str, dict[str, float]]) -> list[Answer]:
    return [a for name, figures in kept.items() for a in _optimized_on(name, figures)]


def _optimized_on(machine: str, figures: dict[str, float]) -> list[Answer]:
    bars = {"float32": 0.42, "bfloat16": 0.22, "int8": 0.17}
    rows = inference.saved_rows()[machine]
    found = [
        Answer(
            f"`optimize`, {p}, batch 1, vs. eager, geometric mean, {machine}",
            bar,
            figures[f"{p} over eager, batch 1"],
            why=_why_slow(rows, figures, p, bar),
        )
        for p, bar in bars.items()
        if f"{p} over eager, batch 1" in figures
    ]
    for name, ratio in figures.items():
        if "better engine" in name:
            question = f"`optimize`, {name.replace('over', 'vs.')}, geometric mean, {machine}"
            found.append(Answer(question, 1.03, ratio, why=_above(rows, name, 1.03)))
    ratios = {
        f"{row['network']}, {precision}, batch {row['batch']}": ratio
        for row in rows
        for precision, ratio in row["over the better engine"].items()
    }
    worst = max(ratios, key=lambda row: ratios[row])
    question = f"`optimize` vs. the better engine, worst row ({worst}), {machine}"
    return [*found, Answer(question, 1.1, ratios[worst])]


def _why_slow(
    rows: list[dict[str, Any]], figures: dict[str, float], precision: str, bar: float
) -> str:
    """Return why a goal was missed: the better engine is too slow, or some networks are."""
    over_eager, over_engine = (
        figures.get(f"{precision} over {of}, batch 1") for of in ("eager", "the better engine")
    )
    if over_eager and over_engine and over_eager / over_engine > bar:
        return f"the better engine itself takes {over_eager / over_engine:.2f}x"
    return _above(rows, f"{precision} over eager, batch 1", bar)


def _above(rows: list[dict[str, Any]], name: str, bar: float) -> str:
    """List the networks whose ratio exceeds the goal for the given mean ratio."""
    precision, _, remainder = name.partition(" ")
    question, _, batch = remainder.partition(", batch ")
    ratios = {
        row["network"]: row[question][precision]
        for row in rows
        if row["batch"] == int(batch) and precision in row[question]
    }
    slow = sorted((n for n in ratios if ratios[n] > bar), key=lambda n: -ratios[n])
    return "above the goal: " + ", ".join(f"{n} {ratios[n]:.2f}x" for n in slow[:4])


def _eager(kept: dict[str, Any], machine: str) -> list[Answer]:
    rows = [row.name for row in eager.ROWS if row.precision == "float32"]
    float32 = [name for name in rows if name in kept]
    found = []
    if 2 * len(float32) > len(rows):  # too few rows give an unreliable mean
        worst, ratio = _worst({name: kept[name] for name in float32}, "ratio")
        mean = kept["geometric mean"]
        over = f"geometric mean of {len(float32)} rows, relative to theirs"
        found = [
            Answer(f"plain eager forward, {over}, {machine}", 1.0, mean),
            Answer(
                f"plain eager forward, worst row ({worst}), {machine}",
                1.05,
                ratio,
                why="{:.2f}x to {:.2f}x in different processes".format(
                    min(kept[worst]["ratios"]), max(kept[worst]["ratios"])
                ),
            ),
        ]
    why = "no available kernel is much faster than the one used by timm's linear layers"
    return found + [
        Answer(f"plain eager forward, {name}, {machine}", 0.6, kept[name]["ratio"], why=why)
        for name in ("mixer_b16, batch 1", "mixer_b16, batch 16")
        if name in kept
    ]


def _training(kept: dict[str, Any], machine: str) -> list[Answer]:
    worst, ratio = _worst(kept, "ratio plain")
    mean = kept["geometric mean of ratio"]
    rows = [row for row in kept.values() if isinstance(row, dict)]
    name = f"training step, batch 16, vs. torchvision's default, geometric mean, {machine}"
    why = (
        ""
        if any("bf16-mixed_ms" in row for row in rows)
        else "this machine does not support bfloat16"
    )
    return [
        Answer(name, 0.62, mean, why=why),
        Answer(
            f"plain training step vs. theirs, worst row ({worst}), {machine}",
            1.05,
            ratio,
            why="[see below](#training-steps)",
        ),
    ]


def _worst(kept: dict[str, Any], key: str) -> tuple[str, float]:
    """Return the name of the row with the largest ratio, and the ratio."""
    rows = {name: row[key] for name, row in kept.items() if isinstance(row, dict)}
    worst = max(rows, key=lambda name: rows[name])
    return worst, rows[worst]


def _int8(kept: dict[str, Any]) -> list[Answer]:
    """Return the worst network for each engine."""
    found = []
    for engine in int8_accuracy.ENGINES:
        lost = {
            network: round(row["float32"] - row[engine], 2)
            for network, row in kept["networks"].items()
            if isinstance(row[engine], float)
        }
        worst = max(lost, key=lambda network: lost[network])
        question = f"int8 with {engine}, accuracy points lost on Fashion-MNIST, worst of "
        question += f"{len(lost)} ({worst})"
        found.append(Answer(question, 0.5, lost[worst], form="{:.2f}"))
    return found


READERS: dict[str, Callable[[Any], list[Answer]]] = {
    "inference": _optimized,
    "folder": lambda kept: [
        Answer(
            f"images per second, 1,000 JPEG files to labels, {name}", 2.5, row["ratio"], more=True
        )
        for name, row in kept.items()
    ],
    "checkpointing": lambda kept: [
        Answer("DenseNet-121 with checkpointing, peak memory of a step", 0.5, kept["memory_ratio"]),
        Answer("DenseNet-121 with checkpointing, time of a step", 1.4, kept["time_ratio"]),
    ],
    "int8_accuracy": _int8,
    "cold_start": lambda kept: [
        Answer("new process to first prediction, vs. torchvision", 0.65, kept["ratio"])
    ],
    "training_epoch": lambda kept: [
        Answer("epoch of LeNet-5 on Fashion-MNIST, vs. the usual PIL loop", 0.6, kept["ratio"])
    ],
    "import_time": lambda kept: [
        Answer(
            "`import cnnarch` after `import torch`",
            50,
            kept["extra_milliseconds"],
            form="{:.0f} ms",
        ),
        Answer(
            "`import cnnarch`, per family", 0.6, kept["milliseconds_per_family"], form="{:.2f} ms"
        ),
    ],
}

READERS_OF_MACHINES: dict[str, Callable[[Any, str], list[Answer]]] = {
    "eager": _eager,
    "training_step": _training,
}


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


def draw(path: Path) -> None:
    """Draw the ratio of each time to the eager time, one panel per machine and batch size."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colors = {"float32": "#4477aa", "bfloat16": "#ccbb44", "int8": "#aa3377"}
    height = 0.8 / len(colors)

    def panel(axes: Axes, rows: list[dict[str, Any]]) -> None:
        for place, (precision, color) in enumerate(colors.items()):
            shown = [
                (i, row["over eager"][precision])
                for i, row in enumerate(rows)
                if precision in row["over eager"]
            ]
            where = [i + (place - 1) * height for i, _ in shown]
            axes.barh(where, [r for _, r in shown], height, color=color)
        axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
        axes.set_xlim(0, limit)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)

    kept = {
        f"{name}, batch {batch}": [row for row in rows if row["batch"] == batch]
        for name, rows in inference.saved_rows().items()
        for batch in sorted({row["batch"] for row in rows})
    }
    ratios = (r for rows in kept.values() for row in rows for r in row["over eager"].values())
    limit = 1.03 * max(1.0, *ratios)
    columns = 2
    lines = -(-len(kept) // columns)
    max_rows = max(map(len, kept.values()))
    figure = Figure(figsize=(10, (0.45 * max_rows + 0.5) * lines + 0.7), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (title, rows) in zip(panels, kept.items(), strict=False):
        panel(axes, rows)
        axes.set_title(title, fontsize="medium", loc="left")
    for axes in panels[len(kept) :]:
        axes.remove()
    panels[0].invert_yaxis()
    figure.supxlabel("time relative to torchvision's or timm's eager mode", fontsize="medium")
    patches = [Patch(color=color, label=precision) for precision, color in colors.items()]
    figure.legend(handles=patches, frameon=False, loc="outside upper right", ncols=len(colors))
    figure.savefig(path, dpi=150)


def unmeasured() -> str:
    """Return a sentence with the numbers of networks that have no results on any machine."""
    rows = {row for kept in results_by_machine("eager").values() for row in kept}
    pairs, networks = {pair.network for pair in PAIRS}, set(cnnarch.list_models())
    left = pairs - {row.partition(",")[0] for row in rows}
    others = networks - every_network.saved_rows().keys()
    return (
        "Only measured networks have rows. Not measured yet: "
        f"{len(left)} of the {len(pairs)} networks that are compared with another library, and "
        f'{len(others)} of the {len(networks)} under "Every network".'
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
    speed, zoo_page, transfer_page = (DOCS / f"{n}.md" for n in ("speed", "zoo", "transfer"))
    text = {page: page.read_text() for page in (speed, zoo_page, transfer_page)}
    for page, name, table in (
        (transfer_page, "transfer", transfer.table()),
        (zoo_page, "zoo", zoo.table()),
        (speed, "bars", summary()),
        (speed, "batch 1", inference.tables(1)),
        (speed, "batch 16", inference.tables(16)),
        (speed, "eager", tables_of("eager", eager_table)),
        (speed, "training", tables_of("training_step", training_table)),
        (speed, "int8", int8_table(results("int8_accuracy"))),
        (speed, "every network", every_network.table()),
    ):
        text[page] = replace_table(text[page], name, table if _has_rows(table) else NOT_YET)
    text[zoo_page] = replace_table(text[zoo_page], "zoo on a GPU", gpu_zoo.table())
    text[speed] = replace_table(text[speed], "unmeasured", unmeasured())
    for page, docs in ((README, "docs/"), (DOCS / "index.md", "")):
        counted = count_networks(page.read_text())
        text[page] = replace_table(counted, "claims", claims.text(docs))
    gpu_page = DOCS / "gpu.md"
    text[gpu_page] = replace_table(gpu_page.read_text(), "gpu", gpu_tables.text())
    return text


def _has_rows(table: str) -> bool:
    """Return whether a table has more than a header."""
    return table.count("\n") > 1


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text)
    draw(DOCS / "_static" / "speed.png")
