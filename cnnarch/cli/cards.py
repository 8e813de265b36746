"""list, info and verify: networks by name, and what their papers say beside what is measured."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

import cnnarch
from cnnarch.analysis import count_macs, count_parameters
from cnnarch.cli.tables import show_table
from cnnarch.facts.cards import Form, ModelCard
from cnnarch.facts.shapes import shape_text
from cnnarch.facts.sheets import aliases

__all__ = ["run_info", "run_list", "run_verify"]

FIGURES = {
    "params": "parameters",
    "macs": "multiply-adds",
    "top1_err": "top-1 error, %",
    "top5_err": "top-5 error, %",
}


class Fact(NamedTuple):
    """A figure of a network in one of its forms."""

    form: str
    figure: str
    paper: str
    measured: str
    verdict: str
    holds: bool


def run_list(parsed: argparse.Namespace) -> int:
    """A table of networks."""
    names = cnnarch.list_models(parsed.pattern, family=parsed.family, weights=parsed.weights)
    cards = [cnnarch.get_card(name) for name in names]
    rows = [
        (
            c.name,
            c.family,
            str(c.year or ""),
            f"{c.params:,}",
            f"{c.macs:,}",
            shape_text(c.input_size),
        )
        for c in cards
    ]
    show_table(("network", "family", "year", "parameters", "multiply-adds", "input"), rows)
    return 0


def run_info(parsed: argparse.Namespace) -> int:
    """A network's card: its paper's figures beside what is counted now."""
    card = cnnarch.get_card(aliases().get(parsed.model, parsed.model))
    print(f"{card.name}  ({card.family})")
    if card.paper:
        print(f"{card.paper.title}, {card.paper.authors}, {card.paper.year}")
        print(card.paper.link or "")
    print(
        f"input {shape_text(card.input_size)}, at least {card.min_input_size} pixels a side; "
        f"{card.num_classes} classes\n"
    )
    facts = [fact for row in card.all_rows() for fact in _facts(card, row)]
    show_table(("form", "figure", "in the paper", "measured", ""), [fact[:5] for fact in facts])
    for title, lines in (("departures", card.departs), ("weights", card.weights)):
        if lines:
            print(f"\n{title}:")
            print("\n".join(f"  {line}" for line in lines))
    return 0


def run_verify(parsed: argparse.Namespace) -> int:
    """All cards against their networks; status 1 if one does not hold."""
    names = [aliases().get(name, name) for name in parsed.models] or cnnarch.list_models()
    facts = [
        (card.name, fact)
        for card in map(cnnarch.get_card, _tracked(names))
        for row in card.all_rows()
        for fact in _facts(card, row)
    ]
    columns = ("network", "form", "figure", "in the paper", "measured", "")
    printed = [(name, *fact[:5]) for name, fact in facts if fact.paper or not fact.holds]
    show_table(columns, printed)
    wrong = sorted({name for name, fact in facts if not fact.holds})
    print(f"\n{len(names)} networks, {len(facts)} figures: ", end="")
    print(f"{len(wrong)} cards do not hold: {', '.join(wrong)}" if wrong else "every card holds")
    return 1 if wrong else 0


def _facts(card: ModelCard, row: Form) -> Iterator[Fact]:
    """What the paper prints of a form, beside what is counted now."""
    size = row.input_size
    with torch.device("meta"):
        model = card.build(**row.options)
    counted = {"params": count_parameters(model), "macs": count_macs(model, size)}
    form = ", ".join(f"{k}={v}" for k, v in row.options.items()) or "as built"
    if size != card.input_size:
        form += f", {shape_text(size)}"
    for figure, count in counted.items():
        measured, right = f"{count:,}", count == getattr(row, figure)
        verdict = "" if right else f"the card says {getattr(row, figure):,}"
        stated = [s for s in row.stated if s.figure == figure]
        if not stated:
            yield Fact(form, FIGURES[figure], "", measured, verdict, right)
        for s in stated:
            agrees = s.agrees(count)
            holds = right and (not s.compared or agrees == (not s.departs))
            words = verdict or ("agrees" if agrees else s.departs or "differs")
            if right and not holds and agrees:
                words = f"agrees, but a reason is given why not: {s.departs}"
            paper = f"{s.printed} ({s.source})" if s.confirmed else f"{s.printed} ({s.source})?"
            yield Fact(form, FIGURES[figure], paper, measured, words, holds)
    for s in row.stated:
        if s.figure not in counted:
            yield Fact(form, FIGURES[s.figure], f"{s.printed} ({s.source})", "", "", True)


def _tracked(names: Sequence[str]) -> Iterable[str]:
    """The names, with a progress bar where someone looks on."""
    if not sys.stderr.isatty():
        return names
    try:
        from rich.console import Console
        from rich.progress import track
    except ImportError:
        return names
    return track(names, "measuring", console=Console(stderr=True), transient=True)
