"""What a run recorded: figures of each epoch."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path

__all__ = ["History"]


class History(Mapping[str, list[float]]):
    """Loss, accuracy, learning rate and seconds of each epoch, by name.

    `history["val_acc"]` has one value an epoch, nan where an epoch has none.

    Args:
        rows: figures by name, one mapping an epoch.

    >>> history = History([{"epoch": 1, "train_loss": 2.3}, {"epoch": 2, "train_loss": 1.9}])
    >>> history["train_loss"]
    [2.3, 1.9]
    """

    def __init__(self, rows: Iterable[Mapping[str, float]] = ()) -> None:
        self.rows: list[dict[str, float]] = [dict(row) for row in rows]

    def __getitem__(self, name: str) -> list[float]:
        """One figure over all epochs; KeyError if no epoch has it."""
        if not any(name in row for row in self.rows):
            raise KeyError(name)
        return [row.get(name, float("nan")) for row in self.rows]

    def __iter__(self) -> Iterator[str]:
        """Names of the figures, in the order in which they first came."""
        return iter(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        """Number of figures."""
        return len(list(iter(self)))

    def save(self, path: str | PathLike[str]) -> None:
        """Write a CSV file, whole or not at all."""
        part = Path(f"{os.fspath(path)}.part")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self))
            writer.writeheader()
            writer.writerows(self.rows)
        part.replace(path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "History":
        """Read what `save` wrote."""
        with Path(path).open(newline="") as file:
            return cls({k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file))
