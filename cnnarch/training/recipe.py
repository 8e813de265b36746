"""Recipes: the settings of a training run, apart from the network and the data.

jsonargparse reads recipes and checks types. The ranges of numbers are checked here: jsonargparse's
restricted types would not check `Recipe(...)` in Python, and YAML cannot write their values.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks.initialization import RULES
from cnnarch.facts.suggestions import suggest

__all__ = ["Recipe"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: length, optimizer, schedule, augmentation and the weights to keep.

    Args:
        source: the paper or code that the settings come from.
        model_options: options of the network, such as {"small_images": true}.
        weights: initial weights, as the network's builder accepts them; None trains from scratch.
        init: rule of `cnnarch.init_weights` for a network without `weights`; None uses the rule
            of the network's paper.
        freeze: layers to freeze, with their running statistics: true freezes everything except
            the head, the name of a stage, such as conv4_x, freezes all layers up to that stage,
            and false freezes nothing.
        image_resolution: input size in pixels; None uses the size of the images, or the smallest
            size that the network accepts if that is larger. For a folder of images, the command
            line uses the network's own input size.
        grayscale: true for one channel, false for three, None for the channels of the data set
            (three for folders).
        num_epochs: passes over the training images.
        num_steps: length in optimizer steps, used instead of `num_epochs` and rounded to whole
            epochs, at least one.
        batch_size: images per step, summed over all processes.
        optimizer: the optimization algorithm.
        learning_rate: the highest learning rate of the schedule.
        momentum: momentum of SGD and RMSProp. The one-cycle schedule varies it between 0.85 and
            0.95 instead, in the opposite direction to the learning rate.
        nesterov: whether SGD uses Nesterov momentum.
        epsilon: the constant that Adam, AdamW and RMSProp add to the root of the mean square.
            TensorFlow adds it under the root: its 0.001 corresponds to about 0.03 here.
        weight_decay: weight decay, applied to all parameters.
        schedule: learning rate schedule. linear and cosine decay to 0; one-cycle rises for 30 %
            of the steps, then decays along a cosine.
        step_epochs: for the step schedule, the interval in epochs (fractions are allowed), or the
            list of epochs after which the learning rate changes.
        step_factor: factor that the step schedule multiplies the learning rate by.
        warmup_epochs: length of a linear warmup; for one-cycle, the length of the rising part.
        label_smoothing: share of the target that is spread over all classes.
        aux_weight: weight of the loss of each auxiliary head.
        clip_gradient: maximum norm of the gradient; 0 disables clipping.
        ema: decay of an exponential moving average of the weights, which is saved as the result;
            0 disables it. In step n, counted from 0, the decay is at most (1 + n) / (10 + n), as
            in TensorFlow, so that short runs do not keep their initial weights.
        crop_padding: maximum random shift in pixels, before images are resized.
        resized_crop: minimum share of the area that random crops keep; 0 disables cropping.
        flip: whether images are mirrored with probability 0.5.
        randaugment: magnitude, at most 30, of RandAugment with two operations; 0 disables it.
        erasing: probability of erasing a random rectangle.
        mixup: parameter of mixup's beta distribution; 0 disables it.
        cutmix: parameter of cutmix's beta distribution; 0 disables it. If mixup is enabled too,
            each batch uses one of the two at random.
        validation: share of the training images that is held out for validation.
        test_each_epoch: whether to record test curves as well. They never influence training.
        early_stopping: stop after this many epochs without a better validation accuracy; 0 never
            stops early.
        keep_best: whether to return the weights of the epoch with the best validation accuracy
            instead of those of the last epoch.
        precision: auto uses bf16 if the hardware computes it quickly.
        channels_last: whether to use the channels_last memory format; None means true, which is
            faster.
        seed: seed of all random numbers.
        then: further stages, each a mapping of the keys that change. They start from the weights
            of the stage before.

    Raises:
        ValueError: a value is out of range; the message states the range.
    """

    source: str = ""
    model_options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    init: str | None = None
    freeze: bool | str = False
    image_resolution: int | None = None
    grayscale: bool | None = None
    num_epochs: int = 10
    num_steps: int | None = None
    batch_size: int = 128
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    epsilon: float = 1e-8
    weight_decay: float = 5e-4
    schedule: Literal["constant", "step", "linear", "cosine", "one-cycle"] = "one-cycle"
    step_epochs: float | list[float] = 7
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    aux_weight: float = 0.3
    clip_gradient: float = 0.0
    ema: float = 0.0
    crop_padding: int = 0
    resized_crop: float = 0.0
    flip: bool = False
    randaugment: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    validation: float = 0.1
    test_each_epoch: bool = False
    early_stopping: int = 0
    keep_best: bool = False
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    channels_last: bool | None = None
    seed: int = 0
    then: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for names, low, high in _RANGES:
            for name in names.split():
                _check_range(name, getattr(self, name), low, high)
        for name in ("optimizer", "schedule", "precision"):
            check_choice(name, getattr(self, name), get_args(get_type_hints(Recipe)[name]))
        if self.init is not None:
            check_choice("init", self.init, RULES)
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if not self.validation and (self.early_stopping or self.keep_best):
            raise ValueError("early_stopping and keep_best need a validation share above 0")
        stage_keys = [key for key in self.__dataclass_fields__ if key not in _RUN_KEYS]
        for key in sorted({key for stage in self.then for key in stage}):
            if key not in stage_keys:
                raise ValueError(
                    f"a stage in then cannot change {key!r}; it can change {', '.join(stage_keys)}"
                )
        if self.then:
            list(self.stages())  # raises an error if a stage has an invalid value

    def stages(self) -> Iterator["Recipe"]:
        """Yield the recipe of each stage: the first, then those in `then`."""
        first = replace(self, then=[])
        yield first
        yield from (first.changed(stage) for stage in self.then)

    def changed(self, values: dict[str, Any]) -> "Recipe":
        """Return a copy with other values; a new `num_epochs` also replaces `num_steps`.

        Raises:
            ValueError: a key is unknown or a value is not allowed; the message states the
                allowed values.
        """
        length = {"num_steps": None} if "num_epochs" in values else {}
        return Recipe.from_dict({**asdict(self), **length, **values})

    @classmethod
    @cache
    def _parser(cls) -> ArgumentParser:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        return parser

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Create a recipe from a mapping.

        Raises:
            ValueError: a key is unknown or a value is not allowed; the message states the
                allowed values.
        """
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            wrong = min(unknown)
            hint = suggest(wrong, list(cls.__dataclass_fields__))
            raise ValueError(f"unknown key {wrong!r}; {hint}")
        try:
            return cls(**cls._parser().parse_object(values).as_dict())
        except ArgumentError as error:
            raise ValueError(str(error).replace("\n ", "")) from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Recipe":
        """Read a YAML file.

        Raises:
            ValueError: the file is not YAML, or has an invalid key or value, which the message
                names.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
            return cls.from_dict(values if isinstance(values, dict) else {"": values})
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error

    def to_yaml(self) -> str:
        """Return all keys as YAML that `load` can read."""
        return yaml.safe_dump(asdict(self), sort_keys=False, width=100)


_UNBOUNDED = 10**9
_RANGES = (
    ("num_epochs num_steps batch_size image_resolution step_epochs", 1, _UNBOUNDED),
    ("learning_rate weight_decay epsilon warmup_epochs aux_weight clip_gradient", 0, _UNBOUNDED),
    ("crop_padding early_stopping seed mixup cutmix", 0, _UNBOUNDED),
    ("randaugment", 0, 30),
    ("momentum step_factor label_smoothing ema resized_crop erasing", 0, 1),
    ("validation", 0, 0.9),
)
_RUN_KEYS = {  # the same in all stages of a run
    *("source", "model_options", "weights", "init", "image_resolution", "grayscale", "validation"),
    *("test_each_epoch", "keep_best", "precision", "channels_last", "seed", "then"),
}


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    for number in value if isinstance(value, list) else [value]:
        if number is not None and not low <= number <= high:
            allowed = f"from {low} to {high}"
            if high == _UNBOUNDED:
                allowed = f"at most {high:,}" if number > high else f"at least {low}"
            raise ValueError(f"{name} must be {allowed}, got {number!r}")
