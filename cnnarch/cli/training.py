"""train and compare: the command line, over a file, over a recipe."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cnnarch
from cnnarch.analysis import count_parameters
from cnnarch.cli.models import show_figures
from cnnarch.cli.tables import show_table
from cnnarch.facts.cards import ModelCard
from cnnarch.facts.sheets import aliases
from cnnarch.facts.suggestions import suggest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from cnnarch.training import Recipe

__all__ = ["run_compare", "run_train"]


def run_train(words: Sequence[str]) -> int:
    """Train a network and keep what came of it in a folder."""
    options = _options(words, "train")
    names = options.networks or [name for name in [options.model] if name]
    if len(names) != 1:
        raise ValueError(f"name one network, such as lenet5, or a family: {', '.join(aliases())}")
    name = aliases().get(names[0], names[0])
    folder = Path(options.output or _usual_folder(name, options.data))
    results = _train_one(name, folder, words, "train")
    if results:
        show_figures(results["test"])
        print(f"{folder} holds {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return 0


def run_compare(words: Sequence[str]) -> int:
    """Train several networks, each by its recipe; one picture and one table of all."""
    from cnnarch import viz
    from cnnarch.training import History

    options = _options(words, "compare")
    names = [cnnarch.get_card(aliases().get(name, name)).name for name in options.networks]
    if len(names) < 2:
        raise ValueError("name two networks or more, such as resnet18 plain18")
    if len(set(names)) < len(names):
        raise ValueError(f"name each network once, got {', '.join(names)}")
    if options.devices * options.num_nodes > 1:
        raise ValueError("networks are compared on one device")
    folder = Path(options.output or _usual_folder("-".join(names), options.data))
    rows, histories = [], {}
    for name in names:
        results = _train_one(name, folder / name, [*words, "--test_each_epoch=true"], "compare")
        histories[name] = History.load(folder / name / "metrics.csv")
        assert results is not None  # this is the only process
        accuracies = (histories[name]["train_acc"][-1], results["test"]["top1"])
        rows.append((name, f"{results['parameters']:,}", *(f"{a:.2%}" for a in accuracies)))
    viz.comparison(histories).savefig(folder / "comparison.png")
    show_table(("network", "parameters", "training accuracy", "test accuracy"), rows)
    print(f"{folder / 'comparison.png'} has the curves")
    return 0


def _train_one(
    name: str, folder: Path, words: Sequence[str], command: str
) -> dict[str, Any] | None:
    """Train a network as the command line says, and as its recipe where that says nothing."""
    from cnnarch.training import Machine, Recipe, build_model, load_data, train
    from cnnarch.training.datasets import named_folder
    from cnnarch.training.machine import is_first_process

    card = cnnarch.get_card(name)
    options = _options(words, command, card)
    recipe = Recipe(**{key: options[key] for key in Recipe.__dataclass_fields__})
    side = card.input_size[-1] if named_folder(options.data) else None
    data = load_data(
        options.data,
        root=options.data_root,
        image_resolution=recipe.image_resolution or side,
        grayscale=recipe.grayscale,
    )
    model = build_model(name, data, recipe)
    data = data.suited(model, recipe.image_resolution)
    if is_first_process():
        print(
            f"{name}, {count_parameters(model):,} parameters, learns {options.data}: "
            f"{len(data.train):,} images to train, {len(data.test):,} to test\n{recipe.source}"
        )
    return train(
        model,
        data,
        recipe,
        folder,
        resume=options.resume,
        overwrite=options.overwrite,
        machine=Machine(
            options.devices, options.num_nodes, options.accelerator, options.num_workers
        ),
        loggers=[options.logger] if options.logger else [],
        progress=True,
        tell=_tell_epoch,
    )


def _options(words: Sequence[str], command: str, card: ModelCard | None = None) -> "Namespace":
    """The command line over a file named with --config over the recipe of a network."""
    from cnnarch.training import default_recipe, find_recipe

    files, flags = _apart([_underscored(word) for word in words])
    words = [*files, *flags]  # flags win wherever they are
    without_recipe = _training_parser(command)
    # Nothing would come after --print_config, and this parser does not know the recipe yet.
    unprinted = [word for word in words if not word.startswith("--print")]
    first = _parsed(without_recipe, unprinted)
    if card is None:  # to learn which network and which data
        return first
    given = _parsed(without_recipe, unprinted, defaults=False)
    named = first.recipe
    recipe = find_recipe(named) if named else default_recipe(card.name, first.data)
    if "num_epochs" in given:
        recipe = recipe.changed({"num_epochs": given.num_epochs})
    flagged = [word.partition("=")[0] for word in flags]
    if "--num_epochs" in flagged and "--num_steps" not in flagged:
        words = [*words, "--num_steps=null"]  # that a file may hold
    parser = _training_parser(command, recipe)
    parser.set_defaults(model=card.name)
    return parser.instantiate(_parsed(parser, words))


def _training_parser(command: str, recipe: "Recipe | None" = None) -> "ArgumentParser":
    from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]
    from lightning.pytorch.loggers import Logger

    from cnnarch.training import DATA_SETS, Recipe, list_recipes

    parser = Recipe.parser(recipe, prog=f"cnnarch {command}")
    networks = f"a network (cnnarch list), or a family: {', '.join(aliases())}"
    add = parser.add_argument
    add("networks", nargs="*", help=networks)
    add("--model", type=str | None, help="the network, where a file names it")
    add("--data", default="digits", help=f"one of {', '.join(DATA_SETS)}")
    add("--data_root", type=str | None, help="folder of the files, or to download them to")
    add("--output", type=str | None, help="folder of the run; runs/NETWORK-DATA if not named")
    add("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    add("--overwrite", action="store_true", help="remove the run in the folder first")
    add("--recipe", type=str | None, help=f"start from one of {', '.join(list_recipes())}")
    add("--devices", type=int, default=1, help="processes on this machine, a device each")
    add("--num_nodes", type=int, default=1, help="machines; start the command on each")
    add("--accelerator", default="auto", help="cpu, gpu or another of Lightning's")
    add("--num_workers", type=int, default=0, help="processes that read images ahead")
    add("--logger", type=Logger | None, help="a Lightning logger, besides metrics.csv")
    add("--config", action=ActionConfigFile, help="YAML file of any of these; flags win")
    return parser


def _apart(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files named with --config, and all other words."""
    files: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--config" and (file := next(remaining, None)) is not None:
            files += [word, file]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files, others


def _underscored(word: str) -> str:
    """--num-epochs=3 as --num_epochs=3."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _usual_folder(networks: str, data: str) -> str:
    """Where a run goes by default; data may be folder:PATH."""
    words = re.sub(r"\W+", "-", data).strip("-")
    return f"runs/{networks}-{words}"


def _parsed(
    parser: "ArgumentParser", words: Sequence[str], *, defaults: bool = True
) -> "Namespace":
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words, defaults=defaults)
    except ArgumentError as error:
        found = re.search(r"unrecognized arguments: --([\w.]+)|Option '(.+?)'", str(error))
        if found:
            key = found[1] or found[2]
            hint = suggest(key, parser.get_defaults().keys())
            raise ValueError(f"unknown key {key!r}; {hint}") from error
        if "Unexpected config" in str(error):
            message = "the file named with --config must hold keys and values, as in num_epochs: 5"
            raise ValueError(message) from error
        raise ValueError(str(error)) from error


def _tell_epoch(row: Mapping[str, float]) -> None:
    parts = [f"epoch {row['epoch']:3.0f}"]
    for split, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        if f"{split}_loss" in row:
            parts.append(f"{word} {row[f'{split}_loss']:.4f} {row[f'{split}_acc']:7.2%}")
    print("   ".join([*parts, f"{row['seconds']:.1f} s"]))
