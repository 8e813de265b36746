"""The networks of a family with the values that the paper states, and its departures."""

from collections.abc import Sequence

from cnnarch.facts.cards import Form, ModelCard
from cnnarch.facts.text import shape_text

from ..text import bullets, details, table, without_empty_columns
from .stated import AGREES, DIFFERS, FIGURES, UNCONFIRMED, list_figures, printed_cell, reasons

LEGEND = (
    "Parameters and MACs are exact: a test counts them in every network. Errors are percentages, "
    f"as printed or, if an accuracy is printed, 100 minus the accuracy. {AGREES} means that the "
    f"printed number agrees with ours, {DIFFERS} that it does not, and {UNCONFIRMED} that the "
    "source says “about” or that no second source confirms it."
)


def variants_section(cards: Sequence[ModelCard]) -> list[str]:
    """Return the table of all networks and forms, then sources and notes."""
    forms = [(card, form) for card in cards for form in card.all_rows()]
    head = (
        *("network", "input", "parameters", "printed", "MACs", "printed"),
        *("top-1 error", "top-5 error"),
    )
    rows = [_cells(card, form) for card, form in forms]
    parts = ["## Networks", LEGEND if any(form.stated for _, form in forms) else ""]
    parts += [table(*without_empty_columns(head, rows))]
    if notes := _notes(forms):
        parts += [bullets(notes)]
    if sources := _sources(forms):
        parts += [details("Where these values are printed", bullets(sources))]
    return [part for part in parts if part]


def _cells(card: ModelCard, form: Form) -> tuple[str, ...]:
    exact = {"params": form.params, "macs": form.macs}
    cells = (printed_cell(form.stated, figure, exact.get(figure)) for figure in FIGURES)
    params, macs, *errors = cells
    size = shape_text(form.input_size)
    return (call(card, form), size, f"{form.params:,}", params, f"{form.macs:,}", macs, *errors)


def call(card: ModelCard, form: Form) -> str:
    """Return the call that builds a form."""
    options = ", ".join(f"{k}={v!r}" for k, v in form.options.items())
    return f"`{card.name}({options})`" if options else f"`{card.name}`"


def _notes(forms: Sequence[tuple[ModelCard, Form]]) -> list[str]:
    return reasons((call(card, form), stated) for card, form in forms for stated in form.stated)


def _sources(forms: Sequence[tuple[ModelCard, Form]]) -> list[str]:
    """Return the tables, sections and other sources with the values taken from each."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for card, form in forms:
        for stated in form.stated:
            names = found.setdefault(stated.source, {}).setdefault(FIGURES[stated.figure], {})
            names[f"`{card.name}`"] = None
    return [f"{source}: {list_figures(figures)}" for source, figures in found.items()]


def departures_section(cards: Sequence[ModelCard]) -> list[str]:
    """Return each difference from the paper with the networks it applies to."""
    lines: dict[str, list[str]] = {}
    for card in cards:
        for sentence in card.departs:
            lines.setdefault(sentence, []).append(f"`{card.name}`")
    texts = [
        sentence if len(names) == len(cards) else f"{', '.join(names)}: {sentence}"
        for sentence, names in lines.items()
    ]
    return ["## Differences from the paper", bullets(texts) or "There are none."]
