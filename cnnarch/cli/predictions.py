"""Print predictions as they are computed, and write those of an evaluation to a file."""

import csv
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cnnarch.facts.output import print_line, show_rows
from cnnarch.facts.text import display_width, pad, printable
from cnnarch.images import Unreadable, progress_bar
from cnnarch.weights.files import atomic_write

if TYPE_CHECKING:
    from cnnarch.inference.predictor import Prediction, Predictor
    from cnnarch.training import Evaluation, ImageSet

MAX_CELL_WIDTH = 32  # longer class names move the following cells to the right
PERCENTAGE_WIDTH = len(" 100.0%")
EVALUATION_KEYS = ("image", "label", "prediction", "probability", "correct")


class NamedImages(NamedTuple):
    """Images to classify.

    Args:
        images: the images, as `Predictor.stream` accepts them.
        names: the name of each image.
        labels: the label of each image; empty if the labels are unknown.
    """

    images: Any
    names: Sequence[str]
    labels: Sequence[str] = ()


class NamedResult(NamedTuple):
    """A result for an image, and its label if it is known."""

    name: str
    label: str | None
    result: "Prediction | Unreadable"


def print_predictions(predictor: "Predictor", images: NamedImages, form: str, count: int) -> int:
    """Print each prediction when it is computed; return the number of unreadable images.

    Unreadable images are reported on stderr, and are also rows in CSV and JSON.

    Args:
        predictor: computes the predictions.
        images: the images.
        form: table, csv or json.
        count: maximum number of classes per image.
    """
    unreadable = 0
    names = images.names
    labels: Sequence[str | None] = images.labels or [None] * len(names)

    def results() -> Iterator[NamedResult]:
        nonlocal unreadable
        found = zip(names, labels, predictor.stream(images.images), strict=True)
        # In a terminal, the rows themselves show the progress.
        visible = _is_terminal(sys.stderr) and not _is_terminal(sys.stdout)
        with progress_bar("classifying", len(names), visible) as advance:
            for name, label, result in found:
                advance(1)
                if isinstance(result, Unreadable):
                    unreadable += 1
                    print_line(f"cnnarch: {' '.join(result.reason.split())}", sys.stderr)
                yield NamedResult(name, label, result)

    with _exit_on_signals():
        if form == "table":
            _print_table(results(), images, predictor.categories or ())
        elif form == "csv":
            keys = ["image", *(["label"] if images.labels else [])]
            keys += [f"{key}_{i + 1}" for i in range(count) for key in ("class", "probability")]
            show_rows([*keys, "unreadable"], map(_csv_row, results()), form)
        else:
            show_rows((), map(_json_row, results()), form)
    return unreadable


@contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Raise SystemExit on signals that end the process, so that a JSON array is closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [name for name in ("SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in known]
    ending = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]  # as under nohup
    previous = {n: signal.signal(n, lambda number, _: sys.exit(128 + number)) for n in ending}
    try:
        yield
    except SystemExit as stop:
        name = signal.Signals(int(stop.code or 0) - 128).name
        with suppress(OSError):  # the terminal may have been closed
            print_line(f"cnnarch: stopped by {name}", sys.stderr)
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()


def _print_table(
    results: Iterable[NamedResult], images: NamedImages, categories: Sequence[str]
) -> None:
    """Print rows whose widths depend only on what is known before the first prediction."""
    titles = [printable(name) for name in images.names]
    if images.labels:
        pairs = zip(images.names, images.labels, strict=True)
        titles = [printable(f"{name}: {label}") for name, label in pairs]
    width = max(map(display_width, ["image", *titles]))
    longest = max((display_width(printable(name)) for name in categories), default=3)
    cell_width = min(MAX_CELL_WIDTH, longest) + PERCENTAGE_WIDTH
    has_header = False
    for title, (_, _, result) in zip(titles, results, strict=True):
        if isinstance(result, Unreadable):
            continue
        if not has_header:
            print(pad("image", width), " most likely")
            has_header = True
        found = zip(result.classes, result.probabilities, strict=True)
        cells = [pad(f"{printable(name)} {share:.1%}", cell_width) for name, share in found]
        print_line("  ".join([pad(title, width), *cells]).rstrip())


def _csv_row(found: NamedResult) -> dict[str, Any]:
    """Return a row with the classes side by side."""
    name, label, result = found
    row: dict[str, Any] = {"image": name} | ({} if label is None else {"label": label})
    if isinstance(result, Unreadable):
        return row | {"unreadable": result.reason}
    for i, each in enumerate(zip(result.classes, result.probabilities, strict=True), 1):
        row |= {f"class_{i}": each[0], f"probability_{i}": each[1]}
    return row


def _json_row(found: NamedResult) -> dict[str, Any]:
    name, label, result = found
    row: dict[str, Any] = {"image": name} | ({} if label is None else {"label": label})
    if isinstance(result, Unreadable):
        return row | {"classes": [], "probabilities": [], "unreadable": result.reason}
    shares = {"classes": result.classes, "probabilities": result.probabilities}
    return row | shares | {"unreadable": None}


def image_name(images: "ImageSet", index: int) -> str:
    """Return the path of a test image, or its number if it is not a file."""
    paths = getattr(images.pixels, "paths", None)
    return fspath(paths[index]) if paths else f"test image {index + 1}"


def evaluated_rows(evaluation: "Evaluation", images: "ImageSet") -> Iterator[dict[str, Any]]:
    """Yield each evaluated image's name, label, prediction and probability."""
    columns = (images.labels, evaluation.predictions, evaluation.probabilities)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for i, (label, found, probability) in enumerate(rows):
        yield {
            "image": image_name(images, i),
            "label": images.classes[label],
            "prediction": images.classes[found],
            "probability": probability,
            "correct": label == found,
        }


def write_evaluated(path: Path, evaluation: "Evaluation", images: "ImageSet") -> None:
    """Write a CSV file with one row per evaluated image."""
    with (
        atomic_write(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, EVALUATION_KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(evaluated_rows(evaluation, images))
