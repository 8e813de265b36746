"""Lightning callbacks: record metrics, show progress, write checkpoints and stop on signals.

Lightning also catches signals and writes checkpoints, but it does not finish the current step
first, and an interrupted write can destroy the previous checkpoint.
"""

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
from cnnarch.training.optimization import peak_rate
from cnnarch.training.signals import stopping_signals
from cnnarch.training.task import TrainingTask
from cnnarch.weights.files import atomic_write


class Recorder(Callback):
    """Adds a row to a history after each epoch.

    Args:
        history: the history to add rows to.
        path: CSV file to rewrite after each epoch; None writes no file.
        on_row: called with each epoch's row.
    """

    def __init__(
        self,
        history: History,
        path: Path | None = None,
        on_row: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        self.history = history
        self.path = path
        self.on_row = on_row

    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        """Start timing; a run resumed mid-epoch skips `on_train_epoch_start`."""
        self.on_train_epoch_start(trainer, task)

    def on_train_epoch_start(self, trainer: Trainer, _task: LightningModule) -> None:
        """Record the start time and the learning rate."""
        self.started = time.perf_counter()
        self.rate = peak_rate(trainer.optimizers[0])

    def on_train_epoch_end(self, trainer: Trainer, _task: LightningModule) -> None:
        """Add the epoch's row; validation has already run."""
        row = {"epoch": float(len(self.history.rows) + 1), "learning_rate": float(self.rate)}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        row["seconds"] = time.perf_counter() - self.started
        self.history.rows.append(row)
        if trainer.is_global_zero:
            if self.path:
                self.history.save(self.path)
            if self.on_row:
                self.on_row(row)

    def state_dict(self) -> dict[str, Any]:
        """Return the rows to save in checkpoints."""
        return {"rows": self.history.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the rows of a resumed run."""
        self.history.rows[:] = state_dict["rows"]


class ProgressBar(RichProgressBar):
    """A progress bar that shows the remaining time and the last step's loss and accuracy."""

    def get_metrics(self, _trainer: Trainer, task: LightningModule) -> dict[str, Any]:
        """Return the metrics shown next to the bar."""
        assert isinstance(task, TrainingTask)
        metrics = {name: float(value) for name, value in task.latest.items()}
        # With a fixed number of decimals, a diverging loss would make the line longer and longer.
        return {k: f"{v:.3f}" if abs(v) < 1000 else f"{v:.0e}" for k, v in metrics.items()}

    def configure_columns(self, trainer: Trainer) -> list[Any]:
        """Omit the last column (steps per second) to fit the bar into 80 characters."""
        columns: list[Any] = super().configure_columns(trainer)
        return columns[:-1]

    def _get_train_description(self, current_epoch: int) -> str:
        """Number epochs from 1, as in the rest of the output; Lightning numbers them from 0."""
        words = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return words.ljust(len(self.validation_description))


class TrainingStopped(InterruptedError):  # noqa: N818 (not an error)
    """Raised when Ctrl-C or another signal stops training, after the step and its checkpoint.

    Args:
        number: signal number.
        epoch: the current epoch, counted from 1.
        step: the last completed step, counted from 1.
    """

    def __init__(self, number: int, epoch: int, step: int) -> None:
        name = signal.Signals(number).name
        super().__init__(
            f"stopped by {name} in epoch {epoch} after step {step}; resume to continue"
        )
        self.status = 128 + number


class SignalHandler(Callback):
    """Finishes the step, saves a checkpoint and raises `TrainingStopped` on Ctrl-C or a signal.

    The signals are SIGTERM, SIGUSR1, which clusters send before a job's time limit, and SIGHUP,
    which is sent when a terminal closes, unless it is ignored, as under nohup. A second Ctrl-C
    stops immediately and keeps the checkpoint from the last completed epoch.

    Args:
        path: the checkpoint file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.received = 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, _trainer: Trainer, _task: LightningModule) -> None:
        """Install the handlers, which Python allows only in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in stopping_signals():
                self.previous[number] = signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: Trainer, _task: LightningModule, _outputs: Any, _batch: Any, batch_idx: int
    ) -> None:
        """Stop between steps; an epoch's last step is followed by a checkpoint anyway."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # checkpoints do not contain accumulated gradients
        if batch_idx + 1 < trainer.num_training_batches and self._must_stop(trainer):
            trainer.save_checkpoint(self.path)
            self._stop(trainer.current_epoch + 1, batch_idx + 1)

    def on_train_epoch_start(self, trainer: Trainer, _task: LightningModule) -> None:
        """Stop between epochs."""
        if self._must_stop(trainer):
            self._stop(trainer.current_epoch + 1, 0)

    def on_train_end(self, trainer: Trainer, _task: LightningModule) -> None:
        """Stop after the last epoch, before the next stage can start."""
        if self._must_stop(trainer):
            self._stop(trainer.current_epoch, int(trainer.num_training_batches))
        self._restore_handlers()

    def on_exception(
        self, _trainer: Trainer, _task: LightningModule, _exception: BaseException
    ) -> None:
        """Restore the handlers when training fails."""
        self._restore_handlers()

    def _restore_handlers(self) -> None:
        # Restores Lightning's handlers; Lightning later restores the original ones.
        while self.previous:
            signal.signal(*self.previous.popitem())

    def _receive(self, number: int, _frame: Any) -> None:
        self.received = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _must_stop(self, trainer: Trainer) -> bool:
        received = bool(self.received)
        if trainer.world_size > 1:  # all processes stop at the same step
            received = trainer.strategy.reduce_boolean_decision(received, all=False)
        return received

    def _stop(self, epoch: int, step: int) -> None:
        raise TrainingStopped(self.received or signal.SIGTERM, epoch, step)


class MovableCheckpoint(ModelCheckpoint):
    """A checkpoint callback whose folder may be moved or renamed before the run is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Replace the folder in all paths; Lightning discards the scores if the folder changed."""

        def moved(path: str) -> str:
            return str(Path(self.dirpath or "") / Path(path).name) if path else ""

        names = ("best_model_path", "kth_best_model_path", "last_model_path")
        scores = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        changes = {"best_k_models": scores, "dirpath": self.dirpath}
        changes |= {name: moved(state_dict[name]) for name in names}
        super().load_state_dict(state_dict | changes)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically.

    Lightning writes each checkpoint to a temporary folder and then moves it, which requires a copy
    if that folder is on a different disk. A process killed during the copy would leave neither the
    old file nor the new one.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any = None,  # noqa: ARG002 (Lightning passes it by name)
    ) -> None:
        """Write the checkpoint and flush it to disk before it replaces the old file.

        Raises:
            OSError: the file cannot be written; the message names it. The old file is kept.
        """
        buffer = io.BytesIO()  # torch.save hides the cause if the disk is full
        torch.save(checkpoint, buffer)
        target = Path(path)
        try:
            with atomic_write(target) as part, part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            reason = f"{error.strerror}; the previous checkpoint is unchanged"
            raise OSError(error.errno, reason, str(target)) from error
