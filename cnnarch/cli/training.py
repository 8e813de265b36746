"""The train and compare commands: flags override the --config file, which overrides the recipe."""

import argparse
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cnnarch
from cnnarch.analysis import count_parameters
from cnnarch.cli.models import show_evaluation
from cnnarch.facts.output import FORMATS, Column, show
from cnnarch.facts.sheets import aliases
from cnnarch.facts.suggestions import suggest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from cnnarch.training import Recipe


COMPARISON_COLUMNS = (
    Column("network", "network"),
    Column("params", "parameters", "{:,}".format),
    Column("train_acc", "training accuracy", "{:.2%}".format),
    Column("test_acc", "test accuracy", "{:.2%}".format),
)


TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}
"""The types of recipe keys, in words."""


def run_train(args: Sequence[str]) -> int:
    """Train a network and save the results to a folder."""
    command = TrainingCommand("train", args)
    names = command.networks
    if len(names) != 1:
        families = ", ".join(aliases())
        raise ValueError(f"specify one network, such as lenet5, or a family: {families}")
    name = aliases().get(names[0], names[0])
    from cnnarch.training.run import default_folder

    folder = command.output or default_folder(name, command.data)
    results = _train(command, name, folder)
    if results:
        show_evaluation(results["test"])
        print(f"{folder} contains {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def run_compare(args: Sequence[str]) -> int:
    """Train several networks, each with its own recipe, and compare them in a plot and a table."""
    from cnnarch.training import History
    from cnnarch.training.run import default_folder

    command = TrainingCommand("compare", args)
    names = [cnnarch.get_card(aliases().get(name, name)).name for name in command.networks]
    if len(names) < 2:
        raise ValueError("specify at least two networks, such as resnet18 and plain18")
    if len(set(names)) < len(names):
        raise ValueError(f"specify each network only once, got {', '.join(names)}")
    if command.given.get("devices", 1) * command.given.get("num_nodes", 1) > 1:
        raise ValueError("compare uses a single device, but --devices or --num_nodes is above 1")
    folder = command.output or default_folder("-".join(names), command.data)
    rows, histories = [], {}
    for name in names:
        results = _train(command, name, folder / name, compared=True)
        assert results is not None  # compare runs in a single process
        histories[name] = History.load(folder / name / "metrics.csv")
        accuracies = (histories[name]["train_acc"][-1], results["test"]["top1"])
        rows.append((name, results["parameters"], *accuracies))
    cnnarch.viz.comparison(histories).savefig(folder / "comparison.png")
    show(COMPARISON_COLUMNS, rows, command.format)
    command.report(f"saved the curves to {folder / 'comparison.png'}")
    return 0


def _train(
    command: "TrainingCommand", name: str, folder: Path, compared: bool = False
) -> dict[str, Any] | None:
    from cnnarch.training import Machine, Recipe, build_model, load_data, train
    from cnnarch.training.datasets import folder_of
    from cnnarch.training.machine import is_first_process, keep_freed_memory

    card = cnnarch.get_card(name)
    options = command.options(card.name)
    recipe = Recipe(**{key: options[key] for key in Recipe.__dataclass_fields__})
    if compared:
        recipe = replace(recipe, test_each_epoch=True)
    if recipe.weights and recipe.model_options and "model_options" not in command.given:
        recipe = replace(recipe, model_options=_unrecorded_options(recipe, card.name))
    native_size = card.input_size[-1] if folder_of(options.data) else None
    data = load_data(
        options.data,
        root=options.data_root,
        image_resolution=recipe.image_resolution or native_size,
        grayscale=recipe.grayscale,
        skip_unreadable=options.skip_unreadable,
    )
    model = build_model(name, data, recipe)
    data = data.adapt_to(model, recipe.image_resolution)
    if is_first_process():
        command.report(
            f"training {name} ({count_parameters(model):,} parameters) on {options.data}: "
            f"{len(data.train):,} training images, {len(data.test):,} test images\n{recipe.source}"
        )
    keep_freed_memory()
    with warnings_on_one_line():
        return train(
            model,
            data,
            recipe,
            folder,
            resume=options.resume,
            overwrite=options.overwrite,
            machine=Machine(**{key: options[key] for key in Machine._fields}),
            loggers=[options.logger] if options.logger else [],
            progress=command.shows_progress,
            on_epoch_end=lambda row: command.report(_epoch_line(row)),
        )


@contextmanager
def warnings_on_one_line() -> Iterator[None]:
    """Print warnings like errors, without the line of code that caused them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"cnnarch: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


def _unrecorded_options(recipe: "Recipe", network: str) -> dict[str, Any]:
    """Return the recipe's options without those recorded in a checkpoint from cnnarch."""
    from cnnarch.weights.checkpoint import read_checkpoint

    config = read_checkpoint(str(recipe.weights), network).config
    recorded = config.options if config.builder and config.layout == "cnnarch" else {}
    return {name: v for name, v in recipe.model_options.items() if name not in recorded}


class TrainingCommand:
    """The command-line arguments of the train or compare command.

    The arguments are parsed twice: first to find the network and the data, which determine the
    recipe, then with the recipe's values as defaults.

    Args:
        name: the command, train or compare.
        args: the arguments after the command name.
    """

    def __init__(self, name: str, args: Sequence[str]) -> None:
        splitter = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        splitter.add_argument("--config", action="append", default=[], nargs="?", const="")
        split, self.flags = splitter.parse_known_args(args)
        if "" in split.config:
            raise ValueError("argument --config: expected one argument")
        self.files = [f"--config={file}" for file in split.config]
        self.parser = training_parser(name)
        self.given = self._parse(defaults=False)
        model = self.given.get("model")
        self.networks: list[str] = self.given.get("networks") or ([model] if model else [])
        self.data: str = self.given.get("data", "digits")
        self.output = Path(self.given.output) if self.given.get("output") else None
        self.format: str = self.given.get("format", "table")

    @property
    def shows_progress(self) -> bool:
        """Whether stdout is a terminal and receives no CSV or JSON."""
        return self.format == "table" and sys.stdout is not None and sys.stdout.isatty()

    def report(self, line: str) -> None:
        """Print a line about the run, on stderr if stdout receives CSV or JSON."""
        print(line, file=sys.stdout if self.format == "table" else sys.stderr)

    def options(self, network: str) -> "Namespace":
        """Return all options for a network, with its recipe's values as defaults."""
        from cnnarch.training import default_recipe, find_recipe

        named = self.given.get("recipe")
        weights = self.given.get("weights")
        recipe = find_recipe(named) if named else default_recipe(network, self.data, weights)
        if "num_epochs" in self.given:
            recipe = replace(recipe, num_steps=None)
        self.parser.set_defaults({**asdict(recipe), "model": network})
        parsed = self._parse(defaults=True)
        try:
            return self.parser.instantiate(parsed)
        except ValueError as error:  # a logger's package is missing
            raise ValueError(_plain_error(str(error))) from error

    def _parse(self, *, defaults: bool) -> "Namespace":
        """Parse the arguments; without defaults, --print_config has no effect."""
        from jsonargparse import ArgumentError

        args = [*self.files, *self.flags]  # later arguments override earlier ones
        flags = {word.partition("=")[0] for word in self.flags}
        if "--num_epochs" in flags and "--num_steps" not in flags:
            args.append("--num_steps=null")  # overrides num_steps in a --config file
        try:
            args = [arg for arg in args if defaults or not arg.startswith("--print")]
            return self.parser.parse_args(args, defaults=defaults)
        except ArgumentError as error:
            found = re.search(r"unrecognized arguments: --([\w.]+)|Option '(.+?)'", str(error))
            if found and "lightning.pytorch.loggers" not in str(error):
                key = found[1] or found[2]
                hint = suggest(key, self.parser.get_defaults().keys())
                raise ValueError(f"unknown key {key!r}; {hint}") from error
            if "Unexpected config" in str(error):
                message = "the --config file must contain keys and values, such as num_epochs: 5"
                raise ValueError(message) from error
            raise ValueError(_plain_error(str(error))) from error


def _plain_error(message: str) -> str:
    """Return what a key must be, from jsonargparse's message on a value of the wrong type."""
    if "lightning.pytorch.loggers" in message:
        return _logger_error(message)
    key = re.findall(r'Parser key "([\w.]+)":', message)
    value = re.findall(r"(?:Got|Given) value: (.*)", message)
    found = re.findall(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])", message)
    if len(key) != 1 or not value or not found:
        return message
    kinds = [
        f"{'one of ' if ', ' in choices else ''}{choices}" or TYPES.get(name, name)
        for name, choices in found
    ]
    return f"{key[0]} must be {' or '.join(dict.fromkeys(kinds))}, got {value[-1]}"


def _logger_error(message: str) -> str:
    """Return what is wrong with the logger, from jsonargparse's message."""
    found = re.search(r"class_path '[\w.]*?(\w+)':\n(.*)\n +- Expected a", message, re.DOTALL)
    if not found:
        value = re.findall(r"Given value: (.*)", message)[-1]
        if option := re.search(r"NestedArg\(key='([\w.]+)'", value):
            return f"--logger.{option[1]} requires --logger, such as --logger CSVLogger"
        return f"logger must be a Lightning logger, such as CSVLogger, or null, got {value}"
    name, reason = found[1], found[2].strip()
    if required := re.search(r"arguments are required: (.*)", reason):
        options = [f"--logger.{option}" for option in required[1].split(", ")]
        return f"{name} requires {' and '.join(options)}"
    if unknown := re.search(r"Option '(.+?)' is not accepted", reason):
        return f"{name} has no option {unknown[1]!r}"
    if reason.startswith("Parser key"):
        return f"logger.{_plain_error(reason)}"
    return f"{name} is not available: {' '.join(reason.split())}"


def training_parser(command: str) -> "ArgumentParser":
    """Return the parser of train or compare."""
    from cnnarch.training import (  # the ImportError names the extra to install
        DATA_SETS,
        Machine,
        Recipe,
        list_recipes,
    )

    data, recipe = (", ".join(names) for names in (DATA_SETS, list_recipes()))

    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]
    from lightning.pytorch.loggers import Logger

    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, prog=f"cnnarch {command}")
    parser.add_class_arguments(Recipe)
    parser.add_class_arguments(Machine)
    add = parser.add_argument
    add("networks", nargs="*", help="network (see cnnarch list) or family, such as resnet")
    add("--model", type=str | None, help="network, for use in --config files")
    add("--data", default="digits", help=f"data set, one of {data}")
    add(
        "--data_root",
        type=str | None,
        help="folder that contains the data set's files or receives downloads",
    )
    add("--skip_unreadable", action="store_true", help="skip image files that cannot be read")
    add("--output", type=str | None, help="run folder; default: runs/NETWORK-DATA")
    add("--resume", action="store_true", help="resume the run in the folder, if there is one")
    add("--overwrite", action="store_true", help="first delete any existing run in the folder")
    if command == "compare":
        add("--format", choices=FORMATS, default="table", help="format of the comparison")
    add("--recipe", type=str | None, help=f"recipe, one of {recipe}")
    add("--logger", type=Logger | None, help="a Lightning logger, in addition to metrics.csv")
    add("--config", action=ActionConfigFile, help="YAML file of options; flags override it")
    return parser


def _epoch_line(row: Mapping[str, float]) -> str:
    parts = [f"epoch {row['epoch']:3.0f}"]
    for split, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        if f"{split}_loss" in row:
            parts.append(f"{word} {row[f'{split}_loss']:.4f} {row[f'{split}_acc']:7.2%}")
    return "   ".join([*parts, f"{row['seconds']:.1f} s"])
