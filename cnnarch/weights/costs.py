"""Parameters and multiply-adds of every network that a checkpoint in the catalog loads into.

The fact sheets contain most of them. costs.json contains the others: networks with other image
sizes, options or numbers of classes. `python -m tests.oracles.catalog` writes it.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

from cnnarch.facts.sheets import make_card
from cnnarch.weights.catalog import Weights

__all__ = ["Cost", "Setting", "cost_of", "cost_on_sheet", "setting_of"]


class Setting(NamedTuple):
    """How a checkpoint is used: what `Cost` depends on.

    Args:
        network: name of the builder.
        options: options of the builder that differ from its defaults.
        input_size: `(C, H, W)` of the checkpoint's images in pixels.
    """

    network: str
    options: Mapping[str, Any]
    input_size: tuple[int, int, int]


class Cost(NamedTuple):
    """The size of a network and the work for one image.

    Args:
        params: number of trainable parameters.
        macs: number of multiply-adds for one image.
        input_size: `(C, H, W)` of this image in pixels.
    """

    params: int
    macs: int
    input_size: tuple[int, int, int]


def setting_of(weights: Weights) -> Setting:
    """Return the options and the image size of a catalog entry.

    Without preprocessing, the image size is that of the network's card.
    """
    card = make_card(str(weights.network))
    channels, side, _ = card.input_size
    if weights.preprocessing:
        side = weights.preprocessing.crop_size
    size = (weights.in_channels or channels, side, side)
    options = dict(weights.options)
    if weights.num_classes not in (None, card.num_classes):
        options["num_classes"] = weights.num_classes
    if size[0] != channels:
        options["in_channels"] = size[0]
    return Setting(card.name, options, size)


def cost_of(weights: Weights) -> Cost:
    """Return the cost of the network that a catalog entry loads into, for images of its size.

    Raises:
        LookupError: neither the sheet nor costs.json contains the cost.
    """
    setting = setting_of(weights)
    cost = cost_on_sheet(setting) or _read_costs().get(_key(setting))
    if cost is None:
        message = "costs.json lacks {0.network} with options {0.options} and input {0.input_size}"
        raise LookupError(f"{message.format(setting)}; run python -m tests.oracles.catalog")
    return cost


def cost_on_sheet(setting: Setting) -> Cost | None:
    """Return the cost from the network's sheet; None if the sheet does not list the setting."""
    for form in make_card(setting.network).all_rows():
        if form.options == setting.options and form.input_size == setting.input_size:
            return Cost(form.params, form.macs, form.input_size)
    return None


@cache
def _read_costs() -> dict[str, Cost]:
    rows = json.loads(resources.files(__package__).joinpath("costs.json").read_text())
    costs: dict[str, Cost] = {}
    for row in rows:
        size = tuple(row.pop("input_size"))
        cost = Cost(row.pop("params"), row.pop("macs"), size)
        costs[_key(Setting(**row, input_size=size))] = cost
    return costs


def _key(setting: Setting) -> str:
    return json.dumps(setting, sort_keys=True)
