"""What happens beside the steps: recording, printing, and checkpoints that survive anything."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO

from cnnarch.training.history import History
from cnnarch.training.task import TrainingTask

__all__ = [
    "AtomicCheckpointIO",
    "Bar",
    "FolderCheckpoint",
    "Recorder",
    "Stopper",
    "TrainingStopped",
]


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

    def on_train_start(self, trainer: Trainer, _task: LightningModule) -> None:
        """Note time and learning rate; a run resumed in an epoch does not start that epoch."""
        self.on_train_epoch_start(trainer, _task)

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


class Bar(RichProgressBar):
    """A progress bar with the time left, and loss and accuracy of the last step."""

    def get_metrics(self, _trainer: Trainer, task: LightningModule) -> dict[str, Any]:
        """Figures shown beside the bar."""
        assert isinstance(task, TrainingTask)
        figures = {name: float(value) for name, value in task.latest.items()}
        # A loss that grows without end would take the bar's room.
        return {k: f"{v:.3f}" if abs(v) < 1000 else f"{v:.0e}" for k, v in figures.items()}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """All but the last, steps a second: the figures would not fit into 80 columns."""
        columns: list[Any] = super().configure_columns(trainer)
        return columns[:-1]

    def _get_train_description(self, current_epoch: int) -> str:
        """Epochs counted from 1, as everywhere else here; Lightning counts from 0."""
        words = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return words.ljust(len(self.validation_description))  # it takes the place of this line


class TrainingStopped(InterruptedError):  # noqa: N818 (nothing went wrong)
    """Ctrl-C or SIGTERM stopped training after a step, and all was saved.

    Args:
        number: of the signal.
        epoch: that was being trained, from 1.
        step: that was finished, from 1.
    """

    def __init__(self, number: int, epoch: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} in epoch {epoch} after step {step}; resume to go on")
        self.status = 128 + number


class Stopper(Callback):
    """On Ctrl-C or SIGTERM, finishes the step, saves, and raises `TrainingStopped`.

    A second Ctrl-C stops at once; what the last finished epoch saved is then kept.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received = 0
        self.handlers: dict[int, Any] = {}

    def on_train_start(self, _trainer: Trainer, _task: LightningModule) -> None:
        """Take the signals, which only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, _task: LightningModule, _outputs: Any, _batch: Any, batch_idx: int
    ) -> None:
        """Stop between two steps; after an epoch's last one its own checkpoint comes first."""
        if batch_idx + 1 < trainer.num_training_batches and self._asked(trainer):
            trainer.save_checkpoint(self.path)
            self._stop(trainer, batch_idx + 1)

    def on_train_epoch_start(self, trainer: Trainer, _task: LightningModule) -> None:
        """Stop between two epochs."""
        if self._asked(trainer):
            self._stop(trainer, 0)

    def on_train_end(self, trainer: Trainer, _task: LightningModule) -> None:
        """Stop after the last epoch, which is saved: a next stage would not know of the signal."""
        if self._asked(trainer):
            self._stop(trainer, int(trainer.num_training_batches), trainer.current_epoch)
        self._give_back()

    def on_exception(
        self, _trainer: Trainer, _task: LightningModule, _exception: BaseException
    ) -> None:
        """Give the signals back where training fails."""
        self._give_back()

    def _give_back(self) -> None:
        """Before Lightning does: its handlers, which stood before these, would stay for good."""
        while self.handlers:
            signal.signal(*self.handlers.popitem())

    def _receive(self, number: int, _frame: Any) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _asked(self, trainer: Trainer) -> bool:
        asked = bool(self.received)
        if trainer.world_size > 1:  # all processes stop at the same step
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        return asked

    def _stop(self, trainer: Trainer, step: int, epoch: int | None = None) -> None:
        number = self.received or signal.SIGTERM
        raise TrainingStopped(number, epoch or trainer.current_epoch + 1, step)


class FolderCheckpoint(ModelCheckpoint):
    """Checkpoints in a folder that may be moved or renamed before the run goes on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take each file for one of the folder where it is now.

        Of another folder Lightning would forget how good the best epoch was.
        """

        def here(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else ""

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        moved = {name: here(state_dict[name]) for name in names}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict(
            {**state_dict, **moved, "best_k_models": scores, "dirpath": self.dirpath}
        )


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
        """Write beside the old file, force it to the disk, then take the old file's name.

        Raises:
            OSError: it cannot be written; the message names the file, and the old one is there.
        """
        buffer = io.BytesIO()  # torch.save to a disk that is full would hide why it failed
        torch.save(checkpoint, buffer)
        target = Path(path)
        part = target.with_name(target.name + ".part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = f"{error.strerror}; what was saved before is kept"
            raise OSError(error.errno, reason, str(target)) from error
