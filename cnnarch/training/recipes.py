"""Recipes by name: YAML files for papers and collections, fact sheets for our own recipes."""

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any, NamedTuple

from cnnarch.facts.builders import BUILDERS, families
from cnnarch.facts.sheets import facts_of, read_sheet
from cnnarch.facts.suggestions import suggest
from cnnarch.registry import get_model_builder
from cnnarch.training.recipe import Recipe

__all__ = ["DATA_DEFAULTS", "default_recipe", "find_recipe", "list_recipes"]


class DataDefaults(NamedTuple):
    """Recipe defaults of a data set, for all networks.

    Args:
        num_epochs: passes over the training images.
        batch_size: images per step.
        resized_crop, crop_padding, flip: augmentation, as in `Recipe`.
        sgd_rate: factor for the learning rate of SGD, below 1 for batches smaller than 128.
    """

    num_epochs: int
    batch_size: int = 128
    resized_crop: float = 0.0
    crop_padding: int = 0
    flip: bool = False
    sgd_rate: float = 1.0


DATA_DEFAULTS = {
    "digits": DataDefaults(20, batch_size=32, resized_crop=0.6, sgd_rate=0.5),
    "mnist": DataDefaults(5, crop_padding=2),
    "fashion_mnist": DataDefaults(10, crop_padding=2, flip=True),
    "cifar10": DataDefaults(30, crop_padding=4, flip=True),
    "cifar100": DataDefaults(40, crop_padding=4, flip=True),
}
"""The data sets that have a recipe for every network."""

FOLDER = files("cnnarch.training") / "recipes"
DEFAULT = "default"  # the recipe for other data sets


def list_recipes() -> list[str]:
    """Return the names of the recipe files: papers, collections and the default."""
    names = (file.name for file in FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def find_recipe(*names: str) -> Recipe:
    """Return the recipe with the first of these names that exists.

    Args:
        *names: names of recipe files, or of a network or family and a data set, such as
            "lenet-digits".

    Raises:
        TypeError: no name was passed, or a name is not a string.
        ValueError: no such recipe exists; the message lists those that do.
    """
    if not names:
        raise TypeError("find_recipe needs a name, such as find_recipe('default'), got ()")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a recipe's name must be a string, got {name!r}")
    known = list_recipes()
    for name in names:
        if name in known:
            return Recipe.load(str(FOLDER / f"{name}.yaml"))
        network, _, data = name.rpartition("-")
        if data in DATA_DEFAULTS and network in BUILDERS:
            return default_recipe(network, data)
        if data in DATA_DEFAULTS and network in families():
            return _combine(read_sheet(network).recipe, data)
    combined = [f"{n}-{data}" for n in (*families(), *BUILDERS) for data in DATA_DEFAULTS]
    others = f"and each network or family with {', '.join(DATA_DEFAULTS)}, such as lenet-digits"
    hint = suggest(names[0], [*known, *combined], [*known, others])
    raise ValueError(f"there is no recipe {' or '.join(map(repr, names))}; {hint}")


def default_recipe(network: str, data: str) -> Recipe:
    """Return the recipe of a network's fact sheet, combined with the defaults of a data set.

    Args:
        network: name of a builder.
        data: a key of `DATA_DEFAULTS`. Other data sets use the same default recipe for all
            networks.

    Raises:
        TypeError: a name is not a string.
        ValueError: the network does not exist.
    """
    get_model_builder(network)  # raises the error for unknown names
    if not isinstance(data, str):
        raise TypeError(f"a data set's name must be a string, got {data!r}")
    if data not in DATA_DEFAULTS:
        return find_recipe(DEFAULT)
    return _combine(facts_of(network).recipe, data)


def _combine(recipe: Mapping[str, Any], data: str) -> Recipe:
    defaults = DATA_DEFAULTS[data]._asdict()
    factor = defaults.pop("sgd_rate")
    values = {**defaults, **recipe, **recipe.get("on", {}).get(data, {})}
    values.pop("on", None)
    found = Recipe.from_dict(values)
    if found.optimizer != "sgd":
        return found
    return replace(found, learning_rate=found.learning_rate * factor)
