"""The metrics that a training run records for each epoch."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

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
