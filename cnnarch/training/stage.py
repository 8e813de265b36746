"""Run one stage of a recipe: build the Lightning trainer and manage the checkpoint files."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from cnnarch.contract.freezing import temporarily_frozen
from cnnarch.training.callbacks import (
    AtomicCheckpointIO,
    MovableCheckpoint,
    ProgressBar,
    Recorder,
    SignalHandler,
)
from cnnarch.training.checks import last_frozen
from cnnarch.training.classes import weights_of_classes
from cnnarch.training.data import ImageData
from cnnarch.training.loading import ImageDataModule
from cnnarch.training.machine import Machine, is_small, set_threads_and_memory_format
from cnnarch.training.optimization import (
    batch_size_of,
    batches_per_step,
    number_of_epochs,
    steps_per_epoch,
)
from cnnarch.training.probe import initialize_as_probe
from cnnarch.training.recipe import Recipe
from cnnarch.training.task import TrainingTask

PREFIX = "model."  # prefix of the network's weights in the task's checkpoints


@dataclass
class StageRun:
    """A stage of a training run.

    Args:
        number: number of the stage, counted from 1.
        recipe: recipe for the stage.
        folder: folder for checkpoints.
        recorder: records the metrics of each epoch.
        keep: whether to write a checkpoint after each epoch.
    """

    number: int
    recipe: Recipe
    folder: Path
    recorder: Recorder
    keep: bool

    def run(
        self,
        model: nn.Module,
        data: ImageData,
        machine: Machine,
        resume: bool,
        loggers: Sequence[Logger],
        progress: bool,
    ) -> None:
        """Train the network, or load the result if the stage is already finished."""
        if resume and self._file("result").exists():
            self._restore(model, _load(self._file("result")))
            return
        recipe = self.recipe
        size = data.preprocessing.crop_size
        workers, channels_last = machine.num_workers, recipe.channels_last is not False
        module = ImageDataModule(
            data, recipe, stage=self.number, num_workers=workers, channels_last=channels_last
        )
        if "val" not in module.watched and (recipe.early_stopping or recipe.keep_best):
            raise ValueError(
                "early_stopping and keep_best require validation images, but validation="
                f"{recipe.validation} selects none of the {len(data.train)} training images"
            )
        images, processes = module.train_images, machine.devices * machine.num_nodes
        count = (recipe, len(images), processes)
        small = is_small(model, (data.channels, size, size), batch_size_of(*count))
        steps = steps_per_epoch(*count)
        trainer = machine.trainer(
            max_epochs=number_of_epochs(recipe, steps),
            callbacks=self._callbacks(steps, progress),
            plugins=[AtomicCheckpointIO()],
            logger=list(loggers) or False,
            log_every_n_steps=1,
            limit_val_batches=1.0 if module.watched else 0.0,
            precision=machine.precision(recipe.precision, model, small),
            gradient_clip_val=recipe.clip_gradient or None,
            accumulate_grad_batches=batches_per_step(*count),
            enable_checkpointing=self.keep or recipe.keep_best,
            enable_progress_bar=progress,
        )
        start = self._file("last") if resume and self._file("last").exists() else None
        saved = _load(start) if start else None
        if saved and self._is_complete(saved, trainer.max_epochs):
            self._restore(model, saved)
        else:
            with set_threads_and_memory_format(model, small, channels_last):
                self._fit(model, module, trainer, steps, start)
        self._save_result(model, trainer)

    def _fit(
        self,
        model: nn.Module,
        module: ImageDataModule,
        trainer: Trainer,
        steps: int,
        start: Path | None,
    ) -> None:
        """Train the layers that are not frozen, from a checkpoint if there is one."""
        recipe, images = self.recipe, module.train_images
        with temporarily_frozen(model, last_frozen(model, recipe), recipe.freeze_norm):
            if recipe.probe and self.number == 1 and not start:
                initialize_as_probe(model, images, recipe, trainer.strategy.root_device)
            model.train()  # Lightning does not set train mode; frozen layers stay in eval mode
            weights = weights_of_classes(recipe, images)
            task = TrainingTask(model, recipe, module.watched, steps, weights)
            trainer.fit(task, datamodule=module, ckpt_path=start, weights_only=True)

    def _is_complete(self, saved: dict[str, Any], max_epochs: int | None) -> bool:
        """Return whether a checkpoint is from the stage's last epoch.

        When it resumes from such a checkpoint, Lightning neither trains nor averages the weights.
        """
        rows = saved["callbacks"][self.recorder.state_key]["rows"]
        epochs = len(rows) - len(self.recorder.history.rows)  # subtract epochs in earlier stages
        stopping = saved["callbacks"].get(_early_stopping(self.recipe).state_key)
        stopped = stopping is not None and stopping["wait_count"] >= stopping["patience"]
        return epochs == max_epochs or stopped

    def _restore(self, model: nn.Module, saved: dict[str, Any]) -> None:
        """Load the weights and metrics of a finished stage."""
        model.load_state_dict(_weights(saved))
        self.recorder.load_state_dict(saved["callbacks"][self.recorder.state_key])

    def _callbacks(self, steps: int, progress: bool) -> list[Callback]:
        recipe = self.recipe
        callbacks: list[Callback] = [self.recorder]
        if recipe.ema:
            callbacks.append(WeightAveraging(multi_avg_fn=partial(_average, recipe.ema)))
        if recipe.early_stopping:
            callbacks.append(_early_stopping(recipe))
        if progress:
            callbacks.append(ProgressBar(refresh_rate=max(1, steps // 50)))
        files: dict[str, Any] = {"dirpath": self.folder, "enable_version_counter": False}
        files["save_on_train_epoch_end"] = True
        if recipe.keep_best:
            best = files | {"filename": self._file("best").stem, "monitor": "val_acc"}
            callbacks.append(MovableCheckpoint(**best, mode="max"))
        if self.keep:
            callbacks.append(MovableCheckpoint(filename=self._file("last").stem, **files))
            callbacks.append(SignalHandler(self._file("last")))
        return callbacks

    def _save_result(self, model: nn.Module, trainer: Trainer) -> None:
        """Replace the checkpoints with a single file containing the final weights and metrics."""
        if self.recipe.keep_best:
            # The best checkpoint may exist only on the first node if the folder is not shared.
            best = _weights(_load(self._file("best"))) if trainer.is_global_zero else {}
            model.load_state_dict(trainer.strategy.broadcast(best))
        if self.keep and trainer.is_global_zero:
            weights = model.state_dict(prefix=PREFIX)
            metrics = {self.recorder.state_key: self.recorder.state_dict()}
            result = {"state_dict": weights, "callbacks": metrics}
            AtomicCheckpointIO().save_checkpoint(result, self._file("result"))
            for kind in ("best", "last"):
                self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: str) -> Path:
        return self.folder / f"stage-{self.number}-{kind}.ckpt"


def _average(
    decay: float, averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor
) -> None:
    """Update the moving averages, with a smaller decay in early steps.

    Source: the `num_updates` argument of TensorFlow's ExponentialMovingAverage.
    """
    step = int(count)
    share = 1 - min(decay, (1 + step) / (10 + step))
    for average, now in zip(averages, weights, strict=True):
        if average.is_floating_point():
            average.lerp_(now, share)
        else:  # a counter, such as BatchNorm's num_batches_tracked
            average.copy_(now)


def _early_stopping(recipe: Recipe) -> EarlyStopping:
    return EarlyStopping("val_acc", mode="max", patience=recipe.early_stopping)


def _load(path: Path) -> dict[str, Any]:
    """Load a checkpoint without executing code.

    Raises:
        ValueError: the file is corrupted or contains objects that could execute code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is corrupted; delete it to continue without it") from error


def _weights(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the network's weights from a task's checkpoint, whose names this changes."""
    weights: dict[str, Any] = saved["state_dict"]
    consume_prefix_in_state_dict_if_present(weights, PREFIX)
    return weights
