"""Rows of features in memory, and what is handed back."""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from cnnarch.embedding.sources import Batch, Source
from cnnarch.images import Unreadable

__all__ = ["Embeddings", "Rows"]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Rows of features, and what they belong to. NumPy takes it as the array of its features.

    Args:
        features: (N, num_features), float32; mapped from the file if there is one.
        names: the file of each row, where images came from files.
        labels: what a loader gave beside each image, if it did.
        unreadable: files without a row.
    """

    features: np.ndarray
    names: tuple[str, ...] | None = field(default=None, repr=False)
    labels: np.ndarray | None = None
    unreadable: tuple[Unreadable, ...] = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.features, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.features)


class Rows:
    """What came of the batches so far, in memory."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []
        self.names: list[str] = []
        self.labels: list[int] = []
        self.unreadable: list[Unreadable] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def resume(self, source: Source) -> int:  # noqa: ARG002 - memory keeps nothing
        """Skip the images of the source that are done; their number."""
        return 0

    def add(self, batch: Batch, features: np.ndarray | None) -> None:
        """Keep a batch's features; None if no image of it could be read."""
        if features is not None:
            self._keep(features)
        self.names += batch.names
        self.labels += batch.labels
        self.unreadable += batch.unreadable

    def finish(self) -> Embeddings:
        """All there is.

        Raises:
            ValueError: not one image could be read.
        """
        return self._embeddings(np.concatenate(self.parts) if self.parts else None)

    def _keep(self, features: np.ndarray) -> None:
        self.parts.append(features)

    def _embeddings(self, features: np.ndarray | None) -> Embeddings:
        if features is None:
            if self.unreadable:
                raise ValueError(f"no file can be read; the first: {self.unreadable[0].reason}")
            raise ValueError("there are no images: the loader gave none")
        labels = np.array(self.labels) if self.labels else None
        return Embeddings(features, tuple(self.names) or None, labels, tuple(self.unreadable))
