"""What happens beside the steps: recording, printing, and checkpoints that survive anything."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cnnarch.training.history import History

__all__ = ["AtomicCheckpointIO", "Recorder"]


class Recorder(Callback):
    """Adds a row to a history after each epoch, and writes and tells it.

    Args:
        history: what to add to.
        path: CSV file that is rewritten each time; None writes none.
        tell: called with the row of each epoch; None for nothing.
    """

    def __init__(
        self,
        history: History,
        path: Path | None = None,
        tell: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.history = history
        self.path = path
        self.tell = tell
        self.started = 0.0

    def on_train_epoch_start(self, trainer: Trainer, _task: LightningModule) -> None:
        """Note time and learning rate."""
        self.started = time.perf_counter()
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer: Trainer, _task: LightningModule) -> None:
        """Add the row; validation is over by now."""
        row = {"epoch": float(len(self.history.rows) + 1), "learning_rate": float(self.rate)}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        row["seconds"] = time.perf_counter() - self.started
        self.history.rows.append(row)
        if trainer.is_global_zero:
            if self.path:
                self.history.save(self.path)
            if self.tell:
                self.tell(row)

    def state_dict(self) -> dict[str, Any]:
        """The rows, so that a resumed run knows them."""
        return {"rows": self.history.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the rows of the run that is resumed."""
        self.history.rows[:] = state_dict["rows"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all.

    Lightning's own are moved from the folder for temporary files, which is a copy if that is
    another disk; a process killed during the copy would leave neither the old nor the new one.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,  # noqa: ARG002 (Lightning passes it by name)
    ) -> None:
        """Write beside the old file, force it to the disk, then take the old file's name."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.replace(target)
