"""Run one stage of a recipe: set up the training loop and manage the checkpoint files."""

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cnnarch.contract.freezing import temporarily_frozen
from cnnarch.training.checkpoints import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    weights_of,
)
from cnnarch.training.checks import last_frozen
from cnnarch.training.classes import weights_of_classes
from cnnarch.training.data import ImageData, ImageSet
from cnnarch.training.history import Recorder
from cnnarch.training.loading import StageLoaders
from cnnarch.training.loop import Loop, Position, is_finished
from cnnarch.training.machine import (
    Machine,
    is_small,
    memory_explained,
    moved_to,
    set_threads_and_memory_format,
    silence_lightning,
)
from cnnarch.training.optimization import (
    batch_size_of,
    number_of_epochs,
    steps_per_epoch,
)
from cnnarch.training.probe import initialize_as_probe
from cnnarch.training.progress import ProgressBar
from cnnarch.training.recipe import Recipe
from cnnarch.training.signals import StopSignals
from cnnarch.training.step import TrainingStep


@dataclass
class StageRun:
    """A stage of a training run.

    Args:
        number: number of the stage, counted from 1.
        recipe: recipe for the stage.
        folder: folder for checkpoints.
        recorder: records the metrics of each epoch.
        keep: whether to write a checkpoint after each epoch, and when a signal stops training.
        progress: whether to show a progress bar.
    """

    number: int
    recipe: Recipe
    folder: Path
    recorder: Recorder
    keep: bool
    progress: bool = False
    signals: StopSignals = field(default_factory=StopSignals)

    def run(self, model: nn.Module, data: ImageData, machine: Machine, resume: bool) -> None:
        """Train the network, or load the result if the stage is already finished."""
        if resume and self._file("result").exists():
            self._restore(model, self._saved("result"))
            return
        recipe = self.recipe
        images, watched = self._images(data)
        count = (recipe, len(images), machine.devices * machine.num_nodes)
        size = data.preprocessing.crop_size
        small = is_small(model, (data.channels, size, size), batch_size_of(*count))
        self.precision = machine.precision(recipe.precision, model, small)
        fabric = machine.fabric(self.precision)
        with silence_lightning():
            fabric.launch()
        self.fabric, self.epochs = fabric, number_of_epochs(recipe, steps_per_epoch(*count))
        saved = self._saved("last") if resume and self._file("last").exists() else None
        if saved and is_finished(Position(**saved["loop"]), self.epochs, recipe.early_stopping):
            self._restore(model, saved)
        else:
            channels_last = recipe.channels_last is not False
            with (
                set_threads_and_memory_format(model, small, channels_last),
                moved_to(model, fabric.device),
            ):
                self._train(model, images, watched, machine.num_workers, saved)
        self._save_result(model)

    def _saved(self, kind: str) -> dict[str, Any]:
        """Load a checkpoint.

        Raises:
            ValueError: it was written with another recipe, which this stage cannot continue.
        """
        saved = load_checkpoint(self._file(kind))
        recipe = asdict(self.recipe)
        for key, old in saved.get("recipe", {}).items():
            if key != "source" and recipe[key] != old:
                raise ValueError(
                    f"{self._file(kind)} was written with {key}={old!r}, not {recipe[key]!r}; use "
                    "the same recipe to resume the run, or another output folder to start a new one"
                )
        return saved

    def _images(self, data: ImageData) -> tuple[ImageSet, dict[str, ImageSet]]:
        """Return the training images, and those to evaluate on after each epoch, by prefix."""
        recipe = self.recipe
        images, validation = data.hold_back(recipe.validation, recipe.seed)
        watched = {"val": validation, "test": data.test if recipe.test_each_epoch else None}
        return images, {name: found for name, found in watched.items() if found is not None}

    def _train(
        self,
        model: nn.Module,
        images: ImageSet,
        watched: Mapping[str, ImageSet],
        num_workers: int | None,
        saved: dict[str, Any] | None,
    ) -> None:
        """Train the layers that are not frozen, from a checkpoint if there is one."""
        recipe, fabric = self.recipe, self.fabric
        with temporarily_frozen(model, last_frozen(model, recipe), recipe.freeze_norm):
            if recipe.probe and self.number == 1 and not saved:
                initialize_as_probe(model, images, recipe, fabric.device)
            model.train()
            weights = weights_of_classes(recipe, images)
            step = TrainingStep(fabric, model, recipe, len(images), weights)
            loaders = StageLoaders(fabric, recipe, self.number, len(images), num_workers)
            train, batch = loaders.training(images), loaders.batch_size
            validation = {name: loaders.evaluation(found) for name, found in watched.items()}
            options = self.epochs, self, recipe.early_stopping
            self.loop = Loop(fabric, step, train, validation, *options)
            if saved:
                self._load(saved)
            shown = self.progress and fabric.is_global_zero
            self.bar = ProgressBar(self.epochs, len(train), shown)
            with ExitStack() as stack:
                for loader in (train, *validation.values()):
                    stack.callback(loader.close)
                stack.enter_context(self.bar)
                stack.enter_context(self.signals if self.keep else nullcontext())
                stack.enter_context(memory_explained(batch))
                self.loop.run()
            step.optimizer.zero_grad()
            self.recorder.history.setup = self._setup(step)
            if step.average:
                model.load_state_dict(step.average.model.state_dict())

    def _setup(self, step: TrainingStep) -> dict[str, str]:
        """Return how the stage was trained, for the report."""
        device = self.fabric.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        return {"device": name, "precision": self.precision, "step": str(step.method)}

    def _load(self, saved: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        load_weights(self.loop.step.result, saved["state_dict"])
        self.loop.step.load_state_dict(saved["step"])
        self.loop.load_state_dict(saved["loop"])
        self.recorder.history.rows[:] = saved["rows"]

    def _restore(self, model: nn.Module, saved: dict[str, Any]) -> None:
        """Load the weights and metrics of a finished stage."""
        load_weights(model, saved["state_dict"])
        self.recorder.history.rows[:] = saved["rows"]
        self.recorder.history.setup = dict(saved.get("setup", {}))

    def on_step(self, position: Position, metrics: Tensor) -> None:
        """Show a batch's metrics."""
        self.bar.show(position.epoch + 1, position.batch, metrics)

    def on_epoch(self, row: dict[str, float]) -> None:
        """Record an epoch's metrics."""
        is_first = self.fabric.is_global_zero
        self.recorder.add(row, self.loop.position.step, is_first_process=is_first)

    def on_save(self, *, best: bool) -> None:
        """Write the checkpoints that are kept."""
        if not self.fabric.is_global_zero:
            return
        values = {"state_dict": weights_of(self.loop.step.result), "rows": self._rows}
        if best and self.recipe.keep_best:
            save_checkpoint(self._file("best"), values)
        if self.keep:
            values |= {"loop": self.loop.state_dict(), "step": self.loop.step.state_dict()}
            values |= {"recipe": asdict(self.recipe)}
            save_checkpoint(self._file("last"), values)

    def received_signal(self) -> int:
        """Return the number of the signal that should stop training, or 0."""
        return self.signals.received

    def _save_result(self, model: nn.Module) -> None:
        """Replace the checkpoints with a single file containing the final weights and metrics."""
        is_first = self.fabric.is_global_zero
        if self.recipe.keep_best:
            # The best checkpoint may exist only on the first node if the folder is not shared.
            best = load_checkpoint(self._file("best"))["state_dict"] if is_first else {}
            load_weights(model, self.fabric.broadcast(best))
        if self.keep and is_first:
            values = {"state_dict": weights_of(model), "rows": self._rows}
            values |= {"setup": self.recorder.history.setup, "recipe": asdict(self.recipe)}
            save_checkpoint(self._file("result"), values)
            for kind in ("best", "last"):
                self._file(kind).unlink(missing_ok=True)

    @property
    def _rows(self) -> list[dict[str, float]]:
        return self.recorder.history.rows

    def _file(self, kind: str) -> Path:
        return self.folder / f"stage-{self.number}-{kind}.ckpt"
