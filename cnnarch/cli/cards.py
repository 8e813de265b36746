"""The list, info, verify and download commands, for networks, cards and checkpoints."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.facts.cards import Form, ModelCard
from cnnarch.facts.output import Column, show, to_json
from cnnarch.facts.sheets import aliases
from cnnarch.facts.text import shape_text
from cnnarch.weights import Weights, get_weights
from cnnarch.weights.selection import DATASET, Bounds, RatedNetwork, select

FIGURES = {
    "params": "parameters",
    "macs": "multiply-adds",
    "top1_err": "top-1 error, %",
    "top5_err": "top-5 error, %",
}


LIST_COLUMNS = (
    Column("network", "network"),
    Column("family", "family"),
    Column("year", "year"),
    Column("params", "parameters", "{:,}".format),
    Column("macs", "multiply-adds", "{:,}".format),
    Column("input_size", "input", shape_text),
    Column("top1", "top-1, %", "{:.2f}".format),
    Column("pixels", "pixels"),
    Column("weights", "weights"),
    Column("license", "license", lambda text: "its own" if "://" in text else text),
    Column("source", "source"),
)
MORE_COLUMNS = (
    Column("weights_macs", "multiply-adds at these pixels", "{:,}".format),
    Column("dataset", "data set of top-1"),
    Column("metrics_source", "page with top-1"),
)
"""Columns of CSV and JSON only."""
FACT_COLUMNS = (
    Column("form", "form"),
    Column("quantity", "quantity", FIGURES.__getitem__),
    Column("paper", "in the paper"),
    Column("measured", "measured", "{:,}".format),
    Column("verdict", ""),
)
WEIGHTS_COLUMNS = (
    Column("tag", "weights"),
    Column("library", "library"),
    Column("classes", "classes"),
    Column("pixels", "pixels"),
    Column("acc@1", "top-1, %", "{:.2f}".format),
    Column("acc@5", "top-5, %", "{:.2f}".format),
    Column("license", "license"),
)


class Fact(NamedTuple):
    """A value from a network's card, as reported in the paper and as measured."""

    form: str
    figure: str
    paper: str | None
    measured: int | None
    verdict: str
    holds: bool


def run_list(parsed: argparse.Namespace) -> int:
    """Print a table of networks; what it leaves out and its sources are printed to stderr."""
    names = cnnarch.list_models(parsed.pattern, family=parsed.family, weights=parsed.weights)
    bounds = Bounds(parsed.max_params, parsed.max_macs, parsed.min_top1)
    rated = select(names, bounds, parsed.sort)
    columns = (*LIST_COLUMNS, *(MORE_COLUMNS if parsed.format != "table" else ()))
    show(columns, [_list_row(each)[: len(columns)] for each in rated], parsed.format)
    if not names and parsed.pattern:
        wider = f"*{parsed.pattern.strip('*')}*"
        hint = "try --family" if wider == parsed.pattern else f"try {wider!r} or --family"
        print(f"cnnarch: no network is called {parsed.pattern!r}; {hint}", file=sys.stderr)
    if missing := sum(each.top1 is None for each in rated):
        text = f"{missing} of {len(rated)} networks"
        print(f"no top-1 on {DATASET} is published for {text}", file=sys.stderr)
    if parsed.format == "table":
        _explain_list(rated)
    return 0


def _list_row(rated: RatedNetwork) -> tuple[Any, ...]:
    card, weights, cost, top1 = rated
    row = (card.name, card.family, card.year, card.params, card.macs, card.input_size, top1)
    if weights is None or cost is None:
        return *row, *[None] * 7
    published = (None, None) if top1 is None else (DATASET, weights.metrics_source)
    facts = (cost.input_size[1], weights.tag, weights.license, weights.layout)
    return *row, *facts, cost.macs, *published


def _explain_list(rated: Sequence[RatedNetwork]) -> None:
    """Print what the columns mean and where the accuracies are published."""
    sources = {
        str(each.weights.layout): each.weights.metrics_source
        for each in rated
        if each.weights and each.top1 is not None
    }
    if not sources:
        return
    print(
        "multiply-adds: for one image of the input size\n"
        f"top-1: highest accuracy on {DATASET} published for the network's checkpoints, with "
        "images of the stated pixels",
        file=sys.stderr,
    )
    for library, source in sorted(sources.items()):
        print(f"source {library}: {source}", file=sys.stderr)


def run_info(parsed: argparse.Namespace) -> int:
    """Print a network's card: the values reported in its paper alongside the measured ones."""
    card = cnnarch.get_card(aliases().get(parsed.model, parsed.model))
    facts = [fact[:5] for row in card.all_rows() for fact in _facts(card, row)]
    if parsed.format == "csv":
        show(FACT_COLUMNS, facts, "csv")
    elif parsed.format == "json":
        print(to_json(_card_values(card, facts), indent=2))
    else:
        _show_card(card, facts)
    return 0


def _card_values(card: ModelCard, facts: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Return a card's contents as values for JSON."""
    paper = card.paper
    keys = [column.key for column in FACT_COLUMNS]
    weights_keys = [column.key for column in WEIGHTS_COLUMNS]
    return {
        "network": card.name,
        "family": card.family,
        "paper": paper
        and {
            "title": paper.title,
            "authors": paper.authors,
            "year": paper.year,
            "link": paper.link,
        },
        "input_size": card.input_size,
        "min_input_size": card.min_input_size,
        "num_classes": card.num_classes,
        "values": [dict(zip(keys, fact, strict=True)) for fact in facts],
        "departures": card.departs,
        "weights": [
            dict(zip(weights_keys, _weights_row(entry), strict=True))
            | {"dataset": entry.dataset, "metrics_source": entry.metrics_source}
            for entry in get_weights(card.name).values()
        ],
    }


def _show_card(card: ModelCard, facts: Iterable[Sequence[Any]]) -> None:
    print(f"{card.name}  ({card.family})")
    if card.paper:
        print(f"{card.paper.title}, {card.paper.authors}, {card.paper.year}")
        print(card.paper.link or "")
    print(
        f"input {shape_text(card.input_size)}, minimum size {card.min_input_size}, "
        f"{card.num_classes} classes\n"
    )
    show(FACT_COLUMNS, facts)
    if card.departs:
        print("\ndepartures:")
        print("\n".join(f"  {line}" for line in card.departs))
    _show_weights(list(get_weights(card.name).values()))


def _show_weights(entries: Sequence[Weights]) -> None:
    """Print a network's checkpoints with their published accuracies, and where these come from."""
    if not entries:
        return
    print()
    show(WEIGHTS_COLUMNS, map(_weights_row, entries))
    measured = dict.fromkeys((e.dataset, e.metrics_source) for e in entries if e.metrics)
    for dataset, source in measured:
        print(f"accuracies on {dataset}: {source}")


def _weights_row(entry: Weights) -> tuple[Any, ...]:
    pixels = entry.preprocessing and entry.preprocessing.crop_size
    accuracies = (entry.metrics.get("acc@1"), entry.metrics.get("acc@5"))
    return entry.tag, entry.layout, entry.num_classes, pixels, *accuracies, entry.license


def run_download(parsed: argparse.Namespace) -> int:
    """Save a network's checkpoint to a folder that can be passed as `weights=`."""
    from cnnarch.weights import download

    name = aliases().get(parsed.model, parsed.model)
    folder = download(name, parsed.to, weights=parsed.weights)
    print(f"{folder} contains {', '.join(sorted(p.name for p in folder.iterdir()))}")
    print(f"load it with cnnarch.{name}(weights={str(folder.resolve())!r})")
    return 0


def run_verify(parsed: argparse.Namespace) -> int:
    """Check cards against their networks; return status 1 if any value is wrong."""
    from cnnarch.images import progress_bar

    names = [aliases().get(name, name) for name in parsed.models] or cnnarch.list_models()
    facts = []
    with progress_bar("measuring", len(names), None) as advance:
        for name in names:
            card = cnnarch.get_card(name)
            facts += [(name, fact) for row in card.all_rows() for fact in _facts(card, row)]
            advance(1)
    printed = [(name, *fact[:5]) for name, fact in facts if fact.paper or not fact.holds]
    show((LIST_COLUMNS[0], *FACT_COLUMNS), printed)
    wrong = sorted({name for name, fact in facts if not fact.holds})
    print(f"\n{len(names)} networks, {len(facts)} values: ", end="")
    print(f"wrong cards: {', '.join(wrong)}" if wrong else "all correct")
    return 1 if wrong else 0


def _facts(card: ModelCard, row: Form) -> Iterator[Fact]:
    """Yield the values reported in the paper alongside the measured ones."""
    size = row.input_size
    with torch.device("meta"):
        model = card.build(**row.options)
    counted = {"params": count_parameters(model), "macs": count_macs(model, size)}
    form = ", ".join(f"{k}={v}" for k, v in row.options.items()) or "default options"
    if size != card.input_size:
        form += f", {shape_text(size)}"
    for figure, count in counted.items():
        correct = count == getattr(row, figure)
        verdict = "" if correct else f"the card says {getattr(row, figure):,}"
        stated = [s for s in row.stated if s.figure == figure]
        if not stated:
            yield Fact(form, figure, None, count, verdict, correct)
        for s in stated:
            agrees = s.agrees(count)
            holds = correct and (not s.compared or agrees == (not s.departs))
            text = verdict or s.verdict(count)
            if correct and not holds and agrees:
                text = f"agrees, although the card explains a difference: {s.departs}"
            yield Fact(form, figure, f"{s.printed} ({s.source})", count, text, holds)
    for s in row.stated:
        if s.figure not in counted:
            yield Fact(form, s.figure, f"{s.printed} ({s.source})", None, s.verdict(None), True)
