"""Recipes: everything that a training run is told besides the network and the data."""

from collections.abc import Iterable, Iterator
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
    """How to train: length, optimizer, schedule, augmentation, and what to keep.

    Args:
        source: where the settings come from, in words.
        model_options: options of the network, such as {"small_images": true}.
        weights: what the network starts from, as its builder takes it; None starts fresh.
        init: rule of `cnnarch.init_weights` for a network without `weights`; None keeps its
            paper's.
        freeze: what stays as it is, running statistics too: true for all but the head, the name
            of a stage, such as conv4_x, for all up to it, false for nothing.
        image_resolution: side of the input in pixels; None takes the images' own, or the
            smallest that the network accepts if that is more. Of a folder's images the command
            takes the side that the network was made for.
        grayscale: true for one channel, false for three, None for the images' own, which in
            folders is three.
        num_epochs: passes over the training images.
        num_steps: length in optimizer steps instead, rounded to whole epochs, at least one.
        batch_size: images a step, over all processes together.
        optimizer: what moves the weights.
        learning_rate: the highest of the schedule.
        momentum: of SGD and RMSProp; one-cycle moves it between 0.85 and 0.95 instead, against
            the rate.
        nesterov: whether SGD looks ahead.
        epsilon: what Adam, AdamW and RMSProp add to the root of the mean square. TensorFlow adds
            under the root: its 0.001 is about 0.03 here.
        weight_decay: pull towards zero, on all weights.
        schedule: of the learning rate. linear and cosine fall to 0; one-cycle climbs for 30 % of
            the steps, then falls as cosine does.
        step_epochs: step lowers the rate every so many epochs, which may end in a fraction, or
            after each of a list.
        step_factor: what a step multiplies the rate by.
        warmup_epochs: linear climb at the start; for one-cycle, the length of its climb.
        label_smoothing: share of the target that is spread over all classes.
        aux_weight: weight of each auxiliary head's loss.
        clip_gradient: largest norm of the gradient; 0 does not clip.
        ema: decay of a running average of the weights, which is then the result; 0 for none.
            In step n, counted from 0, it is (1 + n) / (10 + n) where that is less, as in
            TensorFlow, so that what a short run began with is forgotten.
        crop_padding: shift by up to so many pixels, at the images' own size.
        resized_crop: smallest share of the area that random crops keep; 0 does not crop.
        flip: whether half of the images are mirrored.
        randaugment: magnitude, up to 30, of RandAugment's two operations; 0 for none.
        erasing: probability of blanking a rectangle.
        mixup: parameter of mixup's beta distribution; 0 for none.
        cutmix: parameter of cutmix's beta distribution; 0 for none. With both, one is drawn.
        validation: share of the training images that is held back to validate on.
        test_each_epoch: whether to draw test curves too; they never choose anything.
        early_stopping: epochs without a better validation accuracy before stopping; 0 never.
        keep_best: whether the epoch of the best validation accuracy is the result, and not
            the last one.
        precision: auto takes bf16 where the machine computes it fast.
        channels_last: whether channels are innermost in memory; None takes what is faster, true.
        seed: of everything that is drawn at random.
        then: further stages on the same weights, each with the keys that change.

    Raises:
        ValueError: a value out of range, with the range.
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
                value = getattr(self, name)
                for number in value if isinstance(value, list) else [value]:
                    if number is not None and not low <= number <= high:
                        raise ValueError(
                            f"{name} must be {_allowed(number, low, high)}, got {number!r}"
                        )
        self._check_choices(vars(self))
        if self.init is not None:
            check_choice("init", self.init, RULES)
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        if not self.validation and (self.early_stopping or self.keep_best):
            raise ValueError("early_stopping and keep_best need a validation share above 0")
        unknown = {key for stage in self.then for key in stage} - set(_STAGE_KEYS)
        if unknown:
            allowed = f"it can change {', '.join(_STAGE_KEYS)}"
            raise ValueError(f"a stage in then cannot change {_listed(unknown)}; {allowed}")
        for stage in self.then:
            replace(self, then=[]).changed(stage)  # is checked as it is made

    def stages(self) -> Iterator["Recipe"]:
        """The recipe of each stage: of the first, then of those in `then`."""
        first = replace(self, then=[])
        yield first
        yield from (first.changed(stage) for stage in self.then)

    def changed(self, values: dict[str, Any]) -> "Recipe":
        """The same recipe with other values of some keys; epochs take the place of steps.

        Raises:
            ValueError: an unknown key or a value that it cannot have, with what is allowed.
        """
        self._check_choices(values)
        length: dict[str, Any] = {}
        if "num_epochs" in values and "num_steps" not in values:
            length["num_steps"] = None
        return Recipe.from_dict({**asdict(self), **length, **values})

    @classmethod
    def _check_choices(cls, values: dict[str, Any]) -> None:
        for name in values.keys() & {"optimizer", "schedule", "precision"}:
            choices = get_args(get_type_hints(cls)[name])
            if values[name] not in choices:
                raise ValueError(f"{name} must be {_listed(choices)}, got {values[name]!r}")

    @classmethod
    def parser(cls, defaults: "Recipe | None" = None, **options: Any) -> ArgumentParser:
        """A parser of these keys, by which files and command lines are read alike."""
        parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, **options)
        parser.add_class_arguments(cls)
        if defaults is not None:
            parser.set_defaults(asdict(defaults))
        return parser

    @classmethod
    @cache
    def _reader(cls) -> ArgumentParser:
        return cls.parser()  # takes longer to make than to use

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """A recipe from its keys.

        Raises:
            ValueError: an unknown key or a value that it cannot have, with what is allowed.
        """
        unknown = values.keys() - cls.__dataclass_fields__.keys()
        if unknown:
            wrong = min(unknown)
            hint = suggest(wrong, list(cls.__dataclass_fields__))
            raise ValueError(f"unknown key {wrong!r}; {hint}")
        try:
            return cls(**cls._reader().parse_object(values).as_dict())
        except ArgumentError as error:
            raise ValueError(str(error).replace("\n ", "")) from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Recipe":
        """Read a YAML file.

        Raises:
            ValueError: it is not YAML, or holds a wrong key or value; the message names it.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
            return cls.from_dict(values if isinstance(values, dict) else {"": values})
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error

    def to_yaml(self) -> str:
        """All keys, as `load` reads them."""
        text: str = yaml.safe_dump(asdict(self), sort_keys=False, width=100)
        return text


_MANY = 10**9
_RANGES = (
    ("num_epochs num_steps batch_size image_resolution step_epochs", 1, _MANY),
    ("learning_rate weight_decay epsilon warmup_epochs aux_weight clip_gradient", 0, _MANY),
    ("crop_padding early_stopping seed mixup cutmix", 0, _MANY),
    ("randaugment", 0, 30),
    ("momentum step_factor label_smoothing ema resized_crop erasing", 0, 1),
    ("validation", 0, 0.9),
)
_STAGE_KEYS = [  # the rest belongs to the run: the network, the data, what is kept
    *("num_epochs", "num_steps", "batch_size", "optimizer", "learning_rate", "momentum"),
    *("nesterov", "epsilon", "weight_decay", "schedule", "step_epochs", "step_factor"),
    *("warmup_epochs", "label_smoothing", "aux_weight", "clip_gradient", "ema", "early_stopping"),
    *("crop_padding", "resized_crop", "flip", "randaugment", "erasing", "mixup", "cutmix"),
    "freeze",
]


def _allowed(number: float, low: float, high: float) -> str:
    """The range that a number misses, or the end of it where the other is for no one."""
    if high < _MANY:
        return f"from {low} to {high}"
    return f"at most {high:,}" if number > high else f"at least {low}"


def _listed(names: Iterable[str]) -> str:
    return " or ".join(map(repr, sorted(names)))
