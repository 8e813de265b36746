"""Select networks by size, cost and published accuracy."""

import logging
import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

from cnnarch.facts.cards import ModelCard
from cnnarch.facts.sheets import make_card
from cnnarch.facts.suggestions import suggest
from cnnarch.weights.catalog import Weights, get_weights
from cnnarch.weights.costs import Cost, cost_of

__all__ = ["DATASET", "ORDERS", "Bounds", "RatedNetwork", "imagenet_top1", "select"]

DATASET = "ImageNet-1K"
"""The data set of the accuracies that are compared."""

log = logging.getLogger("cnnarch")


class RatedNetwork(NamedTuple):
    """A network and the checkpoint with its highest published accuracy.

    Args:
        card: the network's card. Its `params` and `macs` are those of the default options and of
            one image of the card's `input_size`.
        weights: the checkpoint with the highest published top-1 accuracy on ImageNet-1K. If none
            is published, the network's first checkpoint; None if there is none.
        cost: what `weights` costs with its own options and image size.
        top1: the published accuracy of `weights` in percent, for images of the size in `cost`.
    """

    card: ModelCard
    weights: Weights | None = None
    cost: Cost | None = None
    top1: float | None = None


ORDERS: dict[str, Callable[[RatedNetwork], Any]] = {
    "name": lambda rated: rated.card.name,
    "year": lambda rated: rated.card.year and -rated.card.year,
    "params": lambda rated: rated.card.params,
    "macs": lambda rated: rated.card.macs,
    "top1": lambda rated: rated.top1 and -rated.top1,
}
"""Values to sort by; None comes last. The latest year and the highest accuracy come first."""


class Bounds(NamedTuple):
    """Limits for networks; None is no limit.

    Args:
        max_params: maximum number of parameters.
        max_macs: maximum number of multiply-adds for one image.
        min_top1: minimum published top-1 accuracy on ImageNet-1K in percent.
    """

    max_params: float | None = None
    max_macs: float | None = None
    min_top1: float | None = None

    def check(self) -> None:
        """Check the values.

        Raises:
            TypeError: a value is not a number.
            ValueError: a value is NaN or not in its range.
        """
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, Real | None):
                raise TypeError(f"{name} must be a number or None, got {value!r}")
        for name, value in (("max_params", self.max_params), ("max_macs", self.max_macs)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.min_top1 is None:
            return
        if 0 < self.min_top1 <= 1:
            meant = f"{100 * self.min_top1:g}"
            raise ValueError(
                f"min_top1 is in percent, got {self.min_top1!r}; did you mean {meant}?"
            )
        if not 0 <= self.min_top1 <= 100:
            raise ValueError(f"min_top1 must be from 0 to 100 percent, got {self.min_top1!r}")

    def admit(self, cost: Cost | ModelCard) -> bool:
        """Return whether a network or checkpoint has few enough parameters and multiply-adds."""
        fits = self.max_params is None or cost.params <= self.max_params
        return fits and (self.max_macs is None or cost.macs <= self.max_macs)


def select(
    names: Iterable[str], bounds: Bounds | None = None, sort: str = "name"
) -> list[RatedNetwork]:
    """Return the networks within the bounds, each with its most accurate checkpoint.

    A network must be within the bounds with its default options and the input size of its card.
    The checkpoint must be within the bounds with its own image size. Networks without a published
    accuracy are left out if there is a minimum; a log message states their number.

    Args:
        names: names of networks.
        bounds: limits for the networks; None is no limit.
        sort: a key of `ORDERS`. Networks without the value come last. Equal ones are sorted by
            name.

    Raises:
        TypeError: a bound is not a number, or `sort` is not a string.
        ValueError: a bound is not in its range, or `sort` is unknown.
    """
    bounds = bounds or Bounds()
    bounds.check()
    order = _order(sort)
    cards = [make_card(name) for name in names]
    rated = [rate(card, bounds) for card in cards if bounds.admit(card)]
    if cards and not rated:
        _log_smallest(cards)
    if bounds.min_top1 is not None:
        rated = _accurate(rated, bounds, bounds.min_top1)
    return sorted(rated, key=lambda each: ((v := order(each)) is None, v, each.card.name))


def rate(card: ModelCard, bounds: Bounds) -> RatedNetwork:
    """Return a network with the most accurate of its checkpoints that are within the bounds."""
    rows = []
    for weights in get_weights(card.name).values():
        cost = cost_of(weights)
        if bounds.admit(cost):
            rows.append(RatedNetwork(card, weights, cost, imagenet_top1(card, weights, cost)))
    return max(rows, key=lambda row: row.top1 or 0, default=RatedNetwork(card))


def imagenet_top1(card: ModelCard, weights: Weights, cost: Cost) -> float | None:
    """Return the published top-1 accuracy on ImageNet-1K in percent; None if there is none.

    A checkpoint for other options that change the number of parameters, such as another width,
    is a different network: its accuracy does not count.
    """
    if weights.dataset != DATASET or cost.params != card.params:
        return None
    return weights.metrics.get("acc@1")


def _order(sort: str) -> Callable[[RatedNetwork], Any]:
    if not isinstance(sort, str):
        raise TypeError(f"sort must be a string, got {sort!r}")
    if sort not in ORDERS:
        raise ValueError(f"cannot sort by {sort!r}; {suggest(sort, list(ORDERS))}")
    return ORDERS[sort]


def _accurate(rated: list[RatedNetwork], bounds: Bounds, min_top1: float) -> list[RatedNetwork]:
    """Return the networks with a published accuracy of at least the minimum."""
    if missing := sum(row.top1 is None for row in rated):
        limited = bounds.max_params is not None or bounds.max_macs is not None
        within = " within the bounds" if limited else ""
        networks = f"{missing} network{'s' if missing > 1 else ''}"
        log.info(f"left out {networks}: no top-1 on {DATASET} is published{within}")
    return [row for row in rated if row.top1 is not None and row.top1 >= min_top1]


def _log_smallest(cards: list[ModelCard]) -> None:
    smallest, cheapest = min(card.params for card in cards), min(card.macs for card in cards)
    log.info(f"the networks have at least {smallest:,} parameters and {cheapest:,} multiply-adds")
