"""Recipes: all settings of a training run except the network and the data.

jsonargparse parses recipes and checks types. Numeric ranges are checked here because jsonargparse's
restricted types do not check `Recipe(...)` calls, and their values cannot be saved as YAML.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from cnnarch.blocks._checks import check_choice
from cnnarch.blocks.initialization import RULES
from cnnarch.facts.suggestions import suggest

AUTO = "auto"  # a value of num_steps and batch_size


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: length, optimizer, schedule, augmentation and the weights to keep.

    Args:
        source: the paper or code that the settings come from.
        model_options: options for the network, such as {"small_images": true}.
        weights: initial weights, in any form the network's builder accepts; None trains from
            scratch.
        init: `cnnarch.init_weights` rule for a network without `weights`; None uses the rule from
            the network's paper.
        freeze: layers to freeze, including their running statistics. true freezes everything except
            the classifier layer; a stage name, such as conv4_x, freezes all layers up to that
            stage; early freezes the first half of the stages; false freezes nothing.
        freeze_norm: whether to keep the statistics, scale and shift of every BatchNorm unchanged.
        probe: whether to initialize the classifier with a logistic regression on its input, using
            at most 10,000 training images. A classifier that was loaded with the class names of
            the data set is kept, as is one that is not a linear layer.
        image_resolution: input size in pixels. None uses the image size, or the network's minimum
            size if that is larger. For a folder of images, the command line uses the network's
            default input size instead.
        grayscale: true for one channel, false for three, None for the data set's own channels
            (three for folders).
        num_epochs: number of passes over the training images.
        num_steps: number of optimizer steps, which overrides `num_epochs` and is rounded to whole
            epochs, at least one. auto is five epochs or 100 steps, whichever is longer.
        batch_size: number of images per batch, summed over all processes. auto is a twentieth of
            the training images, but at least 8 and at most 32.
        accumulate_grad_batches: number of batches per optimizer step, at most those in an epoch.
            Their gradients are averaged, which uses less memory than a larger batch.
        optimizer: the optimization algorithm.
        learning_rate: the peak learning rate of the schedule.
        layer_decay: ratio of each stage's learning rate to the next stage's, as in
            `cnnarch.param_groups`; the head uses `learning_rate`.
        momentum: momentum for SGD and RMSProp. The one-cycle schedule varies momentum between
            0.85 and 0.95, in the opposite direction to the learning rate.
        nesterov: whether SGD uses Nesterov momentum.
        epsilon: constant that Adam, AdamW and RMSProp add to the root mean square. TensorFlow adds
            it under the square root; 0.001 in TensorFlow corresponds to about 0.03 here.
        weight_decay: weight decay, applied to all parameters.
        schedule: learning rate schedule. linear and cosine decay to 0; one-cycle rises for 30%
            of the steps, then decays along a cosine.
        step_epochs: for the step schedule, either the interval in epochs (fractions are allowed) or
            the list of epochs after which the learning rate changes.
        step_factor: factor by which the step schedule multiplies the learning rate.
        warmup_epochs: length of the linear warmup; for one-cycle, of the rising part.
        label_smoothing: fraction of the target that is spread evenly over all classes.
        class_weights: factor for the loss of each class: balanced, which is inversely proportional
            to the number of training images and 1 on average over all images, or a mapping from
            class names to numbers, 1 for all others. None weights all images equally.
        balanced_sampling: whether to draw the images of each epoch with replacement, such that all
            classes are equally likely. An epoch keeps its number of images.
        aux_weight: loss weight for each auxiliary head.
        clip_gradient: maximum gradient norm; 0 disables clipping.
        ema: decay of an exponential moving average of the weights, which is saved as the result;
            0 disables it. In step n, counted from 0, the decay is at most (1 + n) / (10 + n), as
            in TensorFlow, to keep the initial weights from dominating short runs.
        crop_padding: maximum random shift in pixels, applied before images are resized.
        resized_crop: minimum fraction of the image area kept by random crops; 0 disables cropping.
        flip: whether to flip images horizontally with probability 0.5.
        randaugment: magnitude, at most 30, of RandAugment with two operations; 0 disables it.
        erasing: probability of erasing a random rectangle.
        mixup: parameter of mixup's beta distribution; 0 disables mixup.
        cutmix: parameter of CutMix's beta distribution; 0 disables CutMix. If mixup is also
            enabled, each batch randomly uses one of the two.
        validation: fraction of the training images to hold out for validation.
        test_each_epoch: whether to also record test curves, which never influence training.
        early_stopping: number of epochs without a better validation accuracy after which to stop;
            0 disables early stopping.
        keep_best: whether to return the weights from the epoch with the best validation accuracy
            instead of those from the last epoch.
        precision: numerical precision; auto uses bf16 if the hardware supports it natively.
        channels_last: whether to use the channels-last memory format; None means true, which is
            faster.
        compile: whether to compile the network and, on a single CUDA device, replay each step's
            forward and backward pass as a CUDA graph. auto does so on CUDA devices, for networks
            from this package without hooks, if the stage is long enough to save time: at least
            100 steps for the graph, 2,000 for the compiler. If the step cannot be captured, auto
            continues without; true raises the error.
        seed: seed for all random numbers.
        then: further stages, each a mapping with the settings to change. Each stage starts from the
            weights of the previous one.

    Raises:
        ValueError: a value is out of range; the message states the range.
    """

    source: str = ""
    model_options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    init: str | None = None
    freeze: bool | str = False
    freeze_norm: bool = False
    probe: bool = False
    image_resolution: int | None = None
    grayscale: bool | None = None
    num_epochs: int = 10
    num_steps: int | Literal["auto"] | None = None
    batch_size: int | Literal["auto"] = 128
    accumulate_grad_batches: int = 1
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = 0.05
    layer_decay: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    epsilon: float = 1e-8
    weight_decay: float = 5e-4
    schedule: Literal["constant", "step", "linear", "cosine", "one-cycle"] = "one-cycle"
    step_epochs: float | list[float] = 7
    step_factor: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    balanced_sampling: bool = False
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
    compile: bool | Literal["auto"] = "auto"
    seed: int = 0
    then: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for names, low, high in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if name not in ("num_steps", "batch_size") or value != AUTO:
                    _check_range(name, value, low, high)
        self._check_class_weights()
        for name in ("optimizer", "schedule", "precision"):
            check_choice(name, getattr(self, name), get_args(get_type_hints(Recipe)[name]))
        if self.init is not None:
            check_choice("init", self.init, RULES)
        if self.optimizer == "sgd" and self.nesterov and not self.momentum:
            raise ValueError("nesterov requires momentum above 0")
        if not self.validation and (self.early_stopping or self.keep_best):
            raise ValueError("early_stopping and keep_best require validation above 0")
        for name, hint in get_type_hints(Recipe).items():
            _check_type(name, getattr(self, name), hint)
        if wrong := next((stage for stage in self.then if not isinstance(stage, dict)), None):
            raise ValueError(f"a stage in `then` must be a mapping of keys, got {wrong!r}")
        stage_keys = [key for key in self.__dataclass_fields__ if key not in _RUN_KEYS]
        for key in sorted({key for stage in self.then for key in stage}):
            if key not in stage_keys:
                raise ValueError(
                    f"a stage in `then` cannot change {key!r}, only {', '.join(stage_keys)}"
                )
        if self.then:
            list(self.stages())  # raises an error if any value in a stage is invalid

    def _check_class_weights(self) -> None:
        weights = self.class_weights
        if isinstance(weights, dict):
            for name, weight in weights.items():
                _check_range(f"class_weights: the weight of {name!r}", weight, 0, _UNBOUNDED)
        elif weights is not None:
            allowed = "'balanced', a mapping from class names to numbers, or None"
            if weights != "balanced":
                raise ValueError(f"class_weights must be {allowed}, got {weights!r}")
            if self.balanced_sampling:
                raise ValueError(
                    "class_weights: balanced and balanced_sampling both compensate for unequal "
                    "classes; set only one of them"
                )

    def stages(self) -> Iterator["Recipe"]:
        """Yield the recipe for each stage: the first, then those in `then`."""
        first = replace(self, then=[])
        yield first
        yield from (first.changed(stage) for stage in self.then)

    def changed(self, values: dict[str, Any]) -> "Recipe":
        """Return a copy with some values changed; setting `num_epochs` clears `num_steps`.

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
            ValueError: the file is not valid YAML, or it contains an invalid key or value, named
                in the message.
        """
        try:
            values = yaml.safe_load(Path(path).read_text())
            return cls.from_dict(values if isinstance(values, dict) else {"": values})
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error

    def to_yaml(self) -> str:
        """Return all keys and values as YAML that `load` can read."""
        return yaml.safe_dump(asdict(self), sort_keys=False, width=100)


_UNBOUNDED = 10**9
_RANGES = (
    ("num_epochs num_steps batch_size image_resolution step_epochs", 1, _UNBOUNDED),
    ("accumulate_grad_batches", 1, _UNBOUNDED),
    ("learning_rate weight_decay epsilon warmup_epochs aux_weight clip_gradient", 0, _UNBOUNDED),
    ("crop_padding early_stopping seed mixup cutmix", 0, _UNBOUNDED),
    ("randaugment", 0, 30),
    ("momentum step_factor label_smoothing ema resized_crop erasing", 0, 1),
    ("layer_decay", 0.01, 1),
    ("validation", 0, 0.9),
)
_RUN_KEYS = {  # the same in all stages of a run
    *("source", "model_options", "weights", "init", "probe", "image_resolution", "grayscale"),
    "validation",
    *("test_each_epoch", "keep_best", "precision", "channels_last", "compile", "seed", "then"),
}


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Raise ValueError unless a value has the type of its key; a boolean is not a number."""
    allowed = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is_instance(value, kind) for kind in allowed):
        kinds = [
            ", ".join(map(repr, get_args(kind))) if get_origin(kind) is Literal else kind.__name__
            for kind in allowed
        ]
        words = " or ".join(kinds).replace("NoneType", "None")
        raise ValueError(f"{name} must be {words}, got {value!r}")


def _is_instance(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, get_origin(kind) or kind)


def _check_range(name: str, value: Any, low: float, high: float) -> None:
    for number in value if isinstance(value, list) else [value]:
        if number is not None and not isinstance(number, int | float):
            raise ValueError(f"{name} must be a number, got {number!r}")
        if number is not None and not low <= number <= high:
            allowed = f"from {low} to {high}"
            if high == _UNBOUNDED:
                allowed = f"at most {high:,}" if number > high else f"at least {low}"
            raise ValueError(f"{name} must be {allowed}, got {number!r}")
