"""Find recipes by name: YAML files for papers and collections, fact sheets for our own recipes."""

import os
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from os import PathLike
from typing import Any, NamedTuple

from cnnarch.facts.builders import BUILDERS, families
from cnnarch.facts.sheets import facts_of, read_sheet
from cnnarch.facts.suggestions import suggest
from cnnarch.registry import get_model_builder
from cnnarch.training.recipe import Recipe


class DataDefaults(NamedTuple):
    """A data set's recipe defaults for all networks.

    Args:
        num_epochs: number of passes over the training images.
        batch_size: number of images per step.
        resized_crop, crop_padding, flip: augmentation, as in `Recipe`.
        sgd_rate: factor for SGD's learning rate, below 1 for batches smaller than 128.
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
"""The data sets for which every network has a recipe."""

FOLDER = files("cnnarch.training") / "recipes"
DEFAULT = "default"  # the recipe for other data sets
TRANSFER = "transfer"  # the recipe for pretrained weights
AUGMENTATION = ("resized_crop", "crop_padding", "flip")


def list_recipes() -> list[str]:
    """Return the names of the recipe files, for papers, collections and the default recipe."""
    names = (file.name for file in FOLDER.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def find_recipe(*names: str) -> Recipe:
    """Return the first recipe that exists under one of these names.

    Args:
        *names: names of recipe files, or a network or family combined with a data set, such as
            "lenet-digits".

    Raises:
        TypeError: no name was passed, or a name is not a string.
        ValueError: no such recipe exists; the message suggests or lists existing ones.
    """
    if not names:
        raise TypeError("find_recipe requires at least one name, such as 'default'")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"a recipe name must be a string, got {name!r}")
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
    datasets = ", ".join(DATA_DEFAULTS)
    others = f"and any network or family combined with {datasets}, such as lenet-digits"
    hint = suggest(names[0], [*known, *combined], [*known, others])
    raise ValueError(f"there is no recipe {' or '.join(map(repr, names))}; {hint}")


def default_recipe(network: str, data: str, weights: str | PathLike[str] | None = None) -> Recipe:
    """Return the recipe from a network's fact sheet, combined with a data set's defaults.

    Args:
        network: name of the network's builder.
        data: a key of `DATA_DEFAULTS`. Other data sets use the same default recipe for all
            networks.
        weights: initial weights. With weights, the recipe is the one for transfer learning,
            combined with the data set's augmentation. A training checkpoint (.ckpt) continues a
            run, so it uses the same recipe as a network without weights.

    Raises:
        TypeError: a name is not a string.
        ValueError: the network does not exist.
    """
    get_model_builder(network)  # raises the error for unknown names
    if not isinstance(data, str):
        raise TypeError(f"a data set name must be a string, got {data!r}")
    if is_for_transfer(weights):
        defaults = DATA_DEFAULTS[data]._asdict() if data in DATA_DEFAULTS else {}
        augmentation = {key: defaults[key] for key in AUGMENTATION if key in defaults}
        source = os.fspath(weights) if weights else None
        return replace(find_recipe(TRANSFER), weights=source, **augmentation)
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


def is_for_transfer(weights: str | PathLike[str] | None) -> bool:
    """Return whether weights are pretrained, not the checkpoint of a run to continue."""
    return weights is not None and not str(weights).endswith(".ckpt")
