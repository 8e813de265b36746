"""Generate the page about the commands from their parsers."""

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from cnnarch.cli.parser import amount, build_parser, positive_integer
from cnnarch.cli.training import training_parser
from cnnarch.facts.sheets import aliases
from cnnarch.training import Machine, Recipe

from .text import details, table, write

TRAINING = ("train", "compare")
INTRODUCTION = """# Commands

`cnnarch COMMAND --help` prints the arguments of a command. Flags contain underscores:
`--num_epochs`, not `--num-epochs`. A network is the name of a builder (`cnnarch list`), or a
family such as `resnet`, which stands for its most common network.

The exit status is 0 for success, 1 for an incorrect card or an unreadable image, and 2 for an
error, which is printed on one line. If a signal stopped training, the status is 128 plus the
signal number. With the environment variable `CNNARCH_TRACEBACK=1`, errors are raised with their
traceback. Messages are printed to stderr, so the output of `--format csv` and `--format json`
on stdout can be parsed."""
TYPES = {
    **{int: "integer", float: "number", bool: "`true` or `false`", str: "text", None: "text"},
    **{dict: "mapping", list: "list", type(None): "`null`"},
    **{amount: "number, such as `25M`", positive_integer: "positive integer"},
}
"""What the types of arguments accept, in words."""
HELP = {
    "logger.help": "print the options of a logger, such as `CSVLogger`, and exit",
    "print_config": "print all options as YAML, for `--config`, and exit",
}
"""Texts for the flags that jsonargparse adds."""
RECIPE_NOTE = """The keys of the recipe are flags, too. The recipe for the network and the data \
may set other defaults than these. [Training](../training.md) explains recipes."""
MACHINE_NOTE = "These flags select the devices and processes."


class Command(NamedTuple):
    """A command.

    Args:
        name: the word after `cnnarch`.
        purpose: what it does.
        actions: its arguments, except --help.
    """

    name: str
    purpose: str
    actions: Sequence[argparse.Action]


def write_pages(folder: Path) -> None:
    """Write the page to `folder`."""
    folder.mkdir(exist_ok=True)
    write(folder / "commands.md", commands_page())


def commands_page() -> str:
    commands = find_commands()
    rows = [(f"[`cnnarch {c.name}`](#cnnarch-{c.name})", c.purpose) for c in commands]
    names = table(("family", "network"), [(f"`{a}`", f"`{n}`") for a, n in aliases().items()])
    parts = [INTRODUCTION, details("All names of families", names)]
    parts += [table(("command", "purpose"), rows)]
    train = {action.dest for c in commands if c.name == "train" for action in c.actions}
    for command in commands:
        parts += [f"## `cnnarch {command.name}`", f"{sentence(command.purpose)}", usage(command)]
        if command.name == "train":
            parts += training_tables(command)
        elif command.name == "compare":
            only = [action for action in command.actions if action.dest not in train]
            parts += ["It accepts all flags of [`cnnarch train`](#cnnarch-train), and:"]
            parts += [arguments(only)]
        else:
            parts += [arguments(command.actions)]
    return "\n\n".join(parts) + "\n"


def find_commands() -> list[Command]:
    """Return all commands; argparse has no public list of a parser's arguments."""
    (commands,) = build_parser()._subparsers._group_actions
    return [
        Command(
            choice.dest,
            choice.help,
            actions_of(
                training_parser(choice.dest)
                if choice.dest in TRAINING
                else commands.choices[choice.dest]
            ),
        )
        for choice in commands._get_subactions()
    ]


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.dest != "help"]


def usage(command: Command) -> str:
    """Return a line with all arguments that have no default."""
    words = [f"cnnarch {command.name}"]
    for action in command.actions:
        name = action.dest.upper()
        if not action.option_strings:
            words += [{"*": f"[{name} ...]", "?": f"[{name}]"}.get(action.nargs, name)]
        elif action.required:
            words += [f"{action.option_strings[0]} {name}"]
    flags = any(a.option_strings and not a.required for a in command.actions)
    return "```text\n" + " ".join([*words, *(["[FLAGS]"] if flags else [])]) + "\n```"


def arguments(actions: Iterable[argparse.Action]) -> str:
    rows = [(name_of(action), values_of(action), help_of(action)) for action in actions]
    return table(("argument", "value", "meaning"), rows, kind="flags")


def training_tables(command: Command) -> list[str]:
    """Return the tables of flags, of recipe keys and of devices."""
    recipe, machine = get_type_hints(Recipe), get_type_hints(Machine)
    others = [a for a in command.actions if a.dest not in {**recipe, **machine}]
    parts = [arguments(others)]
    for note, hints in ((RECIPE_NOTE, recipe), (MACHINE_NOTE, machine)):
        rows = [
            (name_of(action), values_of(action, hints), default_of(action), help_of(action))
            for action in command.actions
            if action.dest in hints
        ]
        parts += [note, table(("argument", "value", "default", "meaning"), rows, kind="flags")]
    return parts


def name_of(action: argparse.Action) -> str:
    return f"`{action.option_strings[0]}`" if action.option_strings else f"`{action.dest.upper()}`"


def values_of(action: argparse.Action, hints: dict[str, Any] | None = None) -> str:
    if action.choices:
        return in_words(f"`{choice}`" for choice in action.choices)
    if action.nargs == 0 or action.dest == "print_config":
        return ""
    if hints and action.dest in hints:
        return hint_text(hints[action.dest])
    return TYPES[action.type]


def hint_text(hint: Any) -> str:
    """Return what a type hint allows, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(hint_text(each) for each in get_args(hint))
    if get_origin(hint) is Literal:
        return in_words(f"`{value}`" for value in get_args(hint))
    return TYPES[get_origin(hint) or hint]


def default_of(action: argparse.Action) -> str:
    """Return a default as it is written in a recipe file."""
    if action.default in ("", None) or isinstance(action.default, bool):
        text = {"": "", None: "null", True: "true", False: "false"}[action.default]
    else:
        text = str(action.default)
    return text and f"`{text}`"


def help_of(action: argparse.Action) -> str:
    text = HELP.get(action.dest) or " ".join((action.help or "").split()).replace("%%", "%")
    if ". " not in text:
        text = text.removesuffix(".")
    return re.sub(r"(?<!`)(--\w+)", r"`\1`", text).replace("|", r"\|")


def in_words(values: Iterable[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}" if first else last


def sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
