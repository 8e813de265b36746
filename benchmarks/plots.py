"""The plots of the page "How fast", from the saved results."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks import inference
from benchmarks.claims import inference_rows, training_rows
from benchmarks.measure import results

COLORS = {"float32": "#0072B2", "bfloat16": "#E69F00", "int8": "#009E73"}  # Okabe and Ito
MARKERS = {"float32": "o", "bfloat16": "s", "int8": "D"}
OURS, THEIRS = "#0072B2", "#999999"
WIDTH = 5.4  # inches, so that text is large enough on a phone


def write_plots(folder: Path) -> None:
    """Write all plots; the same results give the same files."""
    with as_text():
        for name, figure in (
            ("speed_inference", plot_inference(inference_rows())),
            ("speed_folder", plot_folder(results("folder"))),
            ("speed_training", plot_training(training_rows())),
            ("speed", plot_all(inference.saved_rows())),
        ):
            metadata = {"Date": None, "Creator": None}
            figure.savefig(folder / f"{name}.svg", metadata=metadata)


@contextmanager
def as_text() -> Iterator[None]:
    """Keep text as text in SVG files, so that they are small and their figures can be tested."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnnarch"}):
        yield


def plot_inference(rows: list[dict[str, Any]]) -> Figure:
    """Draw a network's times relative to eager mode on one line."""
    figure, axes = new_figure(0.3 * len(rows) + 1.2)
    for i, row in enumerate(rows):
        ratios = row["over eager"]
        axes.plot([min(ratios.values()), 1], [i, i], color="#dddddd", linewidth=2, zorder=1)
        for precision, ratio in ratios.items():
            style = {"color": COLORS[precision], "marker": MARKERS[precision]}
            axes.plot(ratio, i, **style, linestyle="", gid=f"{row['network']} {precision}")
    for precision in COLORS:
        style = {"color": COLORS[precision], "marker": MARKERS[precision], "linestyle": ""}
        axes.plot([], [], **style, label=precision)
    relative_to(axes, "eager mode")
    axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes.set_xlabel("time for one image, relative to eager mode")
    figure.legend(frameon=False, loc="outside upper right", ncols=3)
    return figure


def plot_folder(rows: dict[str, Any]) -> Figure:
    """Draw images per second as bars with their values."""
    figure, axes = new_figure(0.55 * 2 * len(rows) + 0.7)
    for i, row in enumerate(rows.values()):
        for place, (who, rate) in enumerate(row["images_per_second"].items()):
            y = i + (place - 0.5) * 0.4
            bar = axes.barh(y, rate, 0.36, color=OURS if who == "cnnarch" else THEIRS)
            axes.bar_label(bar, [f"{who} {rate:.0f}"], padding=3)
    axes.margins(x=0.25)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("images per second, from JPEG files to labels")
    return figure


def plot_training(ratios: dict[str, float]) -> Figure:
    """Draw the time of a training step relative to the defaults as bars with their values."""
    figure, axes = new_figure(0.28 * len(ratios) + 0.9)
    for i, ratio in enumerate(ratios.values()):
        bar = axes.barh(i, ratio, 0.7, color=OURS)
        axes.bar_label(bar, [f"{ratio:.2f}"], padding=3)
    relative_to(axes, "PyTorch's defaults")
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.set_xlabel("time of a training step, relative to the defaults")
    return figure


def plot_all(kept: dict[str, list[dict[str, Any]]]) -> Figure:
    """Draw the times relative to eager mode, one panel for each machine and batch size."""
    panels = {
        f"{name}, batch {batch}": [row for row in rows if row["batch"] == batch]
        for name, rows in kept.items()
        for batch in sorted({row["batch"] for row in rows})
    }
    lines = -(-len(panels) // 2)
    height = (0.4 * max(map(len, panels.values())) + 0.5) * lines + 0.7
    figure = Figure(figsize=(9, height), layout="constrained")
    cells = figure.subplots(lines, 2, squeeze=False, sharex=True, sharey=True).flatten()
    for axes, (title, rows) in zip(cells, panels.items(), strict=False):
        _draw_bars(axes, rows)
        axes.set_title(title, fontsize="medium", loc="left")
    for axes in cells[len(panels) :]:
        axes.remove()
    cells[0].invert_yaxis()
    figure.supxlabel("time relative to torchvision's or timm's eager mode", fontsize="medium")
    patches = [Patch(color=color, label=precision) for precision, color in COLORS.items()]
    figure.legend(handles=patches, frameon=False, loc="outside upper right", ncols=3)
    return figure


def _draw_bars(axes: Axes, rows: list[dict[str, Any]]) -> None:
    height = 0.8 / len(COLORS)
    for place, (precision, color) in enumerate(COLORS.items()):
        shown = {i: r["over eager"].get(precision) for i, r in enumerate(rows)}
        found = {i + (place - 1) * height: ratio for i, ratio in shown.items() if ratio}
        axes.barh(list(found), list(found.values()), height, color=color)
    axes.set_yticks(range(len(rows)), [row["network"] for row in rows])
    axes.axvline(1, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure that is narrow enough for a phone, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def relative_to(axes: Axes, name: str) -> None:
    """Mark the time that the others are relative to, and put the first row at the top."""
    axes.axvline(1, color="black", linewidth=0.8)
    axes.text(0.99, 1, name, transform=axes.get_xaxis_transform(), ha="right", va="bottom")
    axes.set_xlim(0, 1.08)
    axes.invert_yaxis()
