"""The goals of the benchmarks and the measured values, for the page of goals."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks import eager, inference, int8_accuracy
from benchmarks.measure import results, results_by_machine


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
    lines = ["| measurement | goal | measured | result |", "|---|--:|--:|---|"]
    for a in answers():
        bar = f"{'≥' if a.more else '≤'}&nbsp;{a.form.format(a.bar)}"
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


def _eager_once(kept: dict[str, Any], machine: str) -> list[Answer]:
    rows = {name: row for name, row in kept.items() if isinstance(row, dict)}
    worst, ratio = _worst(rows, "ratio")
    what = f"{len(rows)} rows of the newer families, one process"
    return [
        Answer(
            f"plain eager forward, geometric mean of {what}, {machine}",
            1.05,
            kept["geometric mean"],
        ),
        Answer(f"plain eager forward, worst of {what} ({worst}), {machine}", 1.15, ratio),
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
            why="[three runs are not enough](speed.md#training-steps)",
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
    "eager_once": _eager_once,
    "training_step": _training,
}
