"""A progress bar for the epochs of a stage."""

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

REFRESHES = 50  # per epoch; each one waits for the device


class ProgressBar:
    """A context manager that shows the current epoch, its loss and accuracy, and the time left.

    Args:
        epochs: number of epochs.
        batches: number of batches per epoch.
        is_shown: whether anything is shown.
    """

    def __init__(self, epochs: int, batches: int, is_shown: bool) -> None:
        self.epochs = epochs
        self.batches = batches
        self.interval = max(1, batches // REFRESHES)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            disable=not is_shown,
        )
        self.task = self.bar.add_task("", total=batches, metrics="")

    def __enter__(self) -> "ProgressBar":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def show(self, epoch: int, batch: int, metrics: Tensor) -> None:
        """Show a batch, counted from 1 as the epoch is, and its loss and accuracy."""
        if self.bar.disable or (batch % self.interval and batch < self.batches):
            return
        loss, accuracy, *_ = metrics.tolist()
        if batch <= self.interval:
            self.bar.reset(self.task)
        self.bar.update(
            self.task,
            completed=batch,
            description=f"Epoch {epoch}/{self.epochs}",
            metrics=f"loss: {loss:#.4g} acc: {accuracy:.3f}",
        )
