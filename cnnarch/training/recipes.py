"""Recipes by name: files for those of papers and collections, fact sheets for our own."""

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
    """How a data set is trained on, whatever the network.

    Args:
        num_epochs: passes over the training images.
        batch_size: images a step.
        resized_crop, crop_padding, flip: augmentation, as in `Recipe`.
        sgd_rate: factor on the learning rate of SGD, for batches that are smaller than 128.
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
"""The data sets that every network has a recipe for."""

FOLDER = files("cnnarch.training") / "recipes"
DEFAULT = "default"  # of a network on other data


def list_recipes() -> list[str]:
    """Names of the recipe files: those of papers and collections, and the default."""
    names = (file.name for file in FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def find_recipe(*names: str) -> Recipe:
    """The first recipe that has one of these names.

    Args:
        *names: of a recipe file, or a network or a family and a data set, as in "lenet-digits".

    Raises:
        TypeError: no name is given, or one that is not a string.
        ValueError: there is none, with the names that there are.
    """
    if not names:
        raise TypeError("find_recipe needs one name or more, as in find_recipe('default'), got ()")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a recipe's name must be a string, got {name!r}")
    known = list_recipes()
    for name in names:
        if name in known:
            return Recipe.load(str(FOLDER / f"{name}.yaml"))
        owner, _, data = name.rpartition("-")
        if data in DATA_DEFAULTS and owner in BUILDERS:
            return default_recipe(owner, data)
        if data in DATA_DEFAULTS and owner in families():
            return _combined(read_sheet(owner).recipe, data)
    made = [f"{owner}-{data}" for owner in (*families(), *BUILDERS) for data in DATA_DEFAULTS]
    every = f"and every network and family with {', '.join(DATA_DEFAULTS)}, as in lenet-digits"
    hint = suggest(names[0], [*known, *made], [*known, every])
    raise ValueError(f"there is no recipe {' or '.join(map(repr, names))}; {hint}")


def default_recipe(network: str, data: str) -> Recipe:
    """How a network is trained on a data set: the data set's defaults under its sheet's recipe.

    Args:
        network: a builder's name.
        data: a key of `DATA_DEFAULTS`; other data has the default recipe of all networks.

    Raises:
        TypeError: a name is not a string.
        ValueError: there is no such network.
    """
    get_model_builder(network)  # says which names there are
    if not isinstance(data, str):
        raise TypeError(f"a data set's name must be a string, got {data!r}")
    if data not in DATA_DEFAULTS:
        return find_recipe(DEFAULT)
    return _combined(facts_of(network).recipe, data)


def _combined(recipe: Mapping[str, Any], data: str) -> Recipe:
    of_data = DATA_DEFAULTS[data]._asdict()
    factor = of_data.pop("sgd_rate")
    own = {key: value for key, value in recipe.items() if key != "on"}
    found = Recipe.from_dict({**of_data, **own, **recipe.get("on", {}).get(data, {})})
    if found.optimizer != "sgd":
        return found
    return replace(found, learning_rate=found.learning_rate * factor)
