"""The metrics that a training run records for each epoch."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from cnnarch.weights.files import atomic_write


class History(Mapping[str, list[float]]):
    """Loss, accuracy, learning rate and duration in seconds per epoch, keyed by name.

    `history["val_acc"]` contains one value per epoch, or nan for epochs without this metric.

    Args:
        rows: one mapping per epoch, from names to metrics.

    >>> history = History([{"epoch": 1, "train_loss": 2.3}, {"epoch": 2, "train_loss": 1.9}])
    >>> history["train_loss"]
    [2.3, 1.9]
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]
        self.setup: dict[str, str] = {}
        """The device, precision and way to compute gradients of the last stage."""

    def __getitem__(self, name: str) -> list[float]:
        """Return a metric for all epochs; raise KeyError if it was never recorded."""
        if name not in iter(self):
            raise KeyError(name)
        return [row.get(name, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the metric names in order of first appearance."""
        return iter(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a CSV file atomically."""
        with atomic_write(Path(path)) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self))
            writer.writeheader()
            writer.writerows(self.rows)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "History":
        """Read a file written by `save`."""
        with Path(path).open(newline="") as file:
            return cls({k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file))


class Recorder:
    """Adds the metrics of each epoch to a history, and writes them to a file and to loggers.

    Args:
        history: the history to add rows to.
        path: CSV file to rewrite after each epoch; None writes no file.
        loggers: Lightning loggers.
        on_row: called with each epoch's row.
    """

    def __init__(
        self,
        history: History,
        path: Path | None = None,
        loggers: Sequence[Any] = (),
        on_row: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.history = history
        self.path = path
        self.loggers = loggers
        self.on_row = on_row

    def add(self, metrics: Mapping[str, float], step: int, *, is_first_process: bool) -> None:
        """Add an epoch's metrics; only the first process writes them.

        Args:
            metrics: the metrics, without the number of the epoch.
            step: number of optimizer steps so far, for loggers.
            is_first_process: whether this is the first process.
        """
        row = {"epoch": float(len(self.history.rows) + 1), **metrics}
        self.history.rows.append(row)
        if not is_first_process:
            return
        if self.path:
            self.history.save(self.path)
        for logger in self.loggers:
            logger.log_metrics(row, step)
            logger.save()
        if self.on_row:
            self.on_row(row)
