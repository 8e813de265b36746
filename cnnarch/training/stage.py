"""One stage of a recipe: Lightning's parts put together, and the files that survive anything."""

import pickle
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from cnnarch.contract.freezing import temporarily_frozen
from cnnarch.contract.trunk import as_trunk
from cnnarch.training.callbacks import (
    AtomicCheckpointIO,
    Bar,
    FolderCheckpoint,
    Recorder,
    Stopper,
)
from cnnarch.training.data import ImageData
from cnnarch.training.loading import ImageDataModule
from cnnarch.training.machine import Machine, arranged, is_small
from cnnarch.training.optimization import number_of_epochs
from cnnarch.training.recipe import Recipe
from cnnarch.training.task import TrainingTask

__all__ = ["StageRun", "check_freezing"]

PREFIX = "model."  # of the network's weights in the checkpoints of a task


@dataclass
class StageRun:
    """A stage of training.

    Args:
        number: of the stage, from 1.
        recipe: of the stage.
        folder: for checkpoints.
        recorder: of the figures.
        keep: whether to write checkpoints after each epoch.
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
        """Train, or take the result of a stage that was finished before."""
        if resume and self._file("result").exists():
            self._restore(model)
            return
        recipe = self.recipe
        size = data.preprocessing.crop_size
        small = is_small(model, (data.channels, size, size), recipe.batch_size)
        channels_last = recipe.channels_last is not False
        module = self._images(data, machine, channels_last)
        steps = max(1, len(module.train_images) // recipe.batch_size)
        task = TrainingTask(model, recipe, module.watched, steps)
        trainer = machine.trainer(
            max_epochs=number_of_epochs(recipe, steps),
            callbacks=self._callbacks(steps, progress),
            plugins=[AtomicCheckpointIO()],
            logger=list(loggers) or False,
            log_every_n_steps=1,
            limit_val_batches=1.0 if module.watched else 0.0,
            precision=machine.precision(recipe.precision, model, small),
            gradient_clip_val=recipe.clip_gradient or None,
            enable_checkpointing=self.keep or recipe.keep_best,
            enable_progress_bar=progress,
        )
        last = self._file("last")
        start = last if resume and last.exists() else None
        saved = _load(start) if start else None
        if saved and self._ended(saved, trainer.max_epochs):
            self._take(model, saved)
        else:
            with _held(model, recipe), arranged(model, small, channels_last):
                model.train()  # Lightning leaves modes alone, networks keep frozen layers in eval
                trainer.fit(task, datamodule=module, ckpt_path=start, weights_only=True)
        self._finish(model, trainer)

    def _ended(self, saved: dict[str, Any], max_epochs: int | None) -> bool:
        """Whether nothing but the result was missing when this was saved.

        Lightning would not train on, but not end as usual either: weights would not be averaged.
        """
        rows = saved["callbacks"][self.recorder.state_key]["rows"]
        done = len(rows) - len(self.recorder.history.rows)  # it has those of earlier stages
        stopping = saved["callbacks"].get(_early_stopping(self.recipe).state_key)
        patient = stopping is None or stopping["wait_count"] < stopping["patience"]
        return done == max_epochs or not patient

    def _take(self, model: nn.Module, saved: dict[str, Any]) -> None:
        """Weights, averaged if they were, and figures of a stage that ended."""
        model.load_state_dict(_weights(saved))
        self.recorder.load_state_dict(saved["callbacks"][self.recorder.state_key])

    def _images(self, data: ImageData, machine: Machine, channels_last: bool) -> ImageDataModule:
        recipe = self.recipe
        module = ImageDataModule(
            data,
            recipe,
            stage=self.number,
            num_workers=machine.num_workers,
            channels_last=channels_last,
        )
        if "val" not in module.watched and (recipe.early_stopping or recipe.keep_best):
            raise ValueError(
                f"early_stopping and keep_best need images to validate on, and validation="
                f"{recipe.validation} of {len(data.train)} training images are none"
            )
        return module

    def _callbacks(self, steps: int, progress: bool) -> list[Callback]:
        recipe = self.recipe
        callbacks: list[Callback] = [self.recorder]
        if recipe.ema:
            callbacks.append(WeightAveraging(multi_avg_fn=partial(_average, recipe.ema)))
        if recipe.early_stopping:
            callbacks.append(_early_stopping(recipe))
        if progress:
            callbacks.append(Bar(refresh_rate=max(1, steps // 50)))
        files: dict[str, Any] = {"dirpath": self.folder, "enable_version_counter": False}
        files["save_on_train_epoch_end"] = True
        if recipe.keep_best:
            best = files | {"filename": self._file("best").stem, "monitor": "val_acc"}
            callbacks.append(FolderCheckpoint(**best, mode="max"))
        if self.keep:
            callbacks.append(FolderCheckpoint(filename=self._file("last").stem, **files))
            callbacks.append(Stopper(self._file("last")))
        return callbacks

    def _finish(self, model: nn.Module, trainer: Trainer) -> None:
        """Leave one file: the weights that the next stage starts from, and the figures."""
        if self.recipe.keep_best:
            # The others may have no such file: without an output folder each has its own.
            best = _weights(_load(self._file("best"))) if trainer.is_global_zero else {}
            model.load_state_dict(trainer.strategy.broadcast(best))
        if self.keep and trainer.is_global_zero:
            result = {"state_dict": model.state_dict(), "recorder": self.recorder.state_dict()}
            AtomicCheckpointIO().save_checkpoint(result, self._file("result"))
            for kind in ("best", "last"):
                self._file(kind).unlink(missing_ok=True)

    def _restore(self, model: nn.Module) -> None:
        result = _load(self._file("result"))
        model.load_state_dict(result["state_dict"])
        self.recorder.load_state_dict(result["recorder"])

    def _file(self, kind: str) -> Path:
        return self.folder / f"stage-{self.number}-{kind}.ckpt"


def check_freezing(model: nn.Module, recipe: Recipe) -> None:
    """Find what cannot be frozen before anything is trained.

    Raises:
        TypeError: stages are to be frozen of a network that is not of this package.
        ValueError: the network has no such stage.
    """
    for stage in recipe.stages():
        if stage.freeze:
            as_trunk(model).stage_index(_last_frozen(stage))


def _held(model: nn.Module, recipe: Recipe) -> AbstractContextManager[None]:
    return temporarily_frozen(model, _last_frozen(recipe)) if recipe.freeze else nullcontext()


def _last_frozen(recipe: Recipe) -> int | str:
    return -1 if recipe.freeze is True else recipe.freeze


def _average(
    decay: float, averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor
) -> None:
    """Take one more step into running averages, which forget more of the first steps.

    Source: `num_updates` of TensorFlow's ExponentialMovingAverage.
    """
    step = int(count)
    share = 1 - min(decay, (1 + step) / (10 + step))
    for average, now in zip(averages, weights, strict=True):
        if average.is_floating_point():
            average.lerp_(now, share)
        else:  # a count
            average.copy_(now)


def _early_stopping(recipe: Recipe) -> EarlyStopping:
    return EarlyStopping("val_acc", mode="max", patience=recipe.early_stopping)


def _load(path: Path) -> dict[str, Any]:
    """What a checkpoint holds.

    Raises:
        ValueError: it is damaged, or holds what could run code.
    """
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is damaged; remove it to do without") from error
    return saved


def _weights(saved: dict[str, Any]) -> dict[str, Any]:
    """The network's weights in the checkpoint of a task."""
    return {
        name.removeprefix(PREFIX): value
        for name, value in saved["state_dict"].items()
        if name.startswith(PREFIX)
    }
