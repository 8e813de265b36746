"""Sizes from the paper beside the maps, parameters and multiply-adds of the network."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import cnnarch
from cnnarch.analysis import Summary, SummaryRow, summary
from cnnarch.facts.cards import Form, ModelCard, Stated
from cnnarch.facts.sheets import facts_of
from cnnarch.facts.text import shape_text

from ..blocks import network
from ..text import bullets, details, table, without_empty_columns
from .stated import AGREES, DIFFERS, printed_cell, reasons


class Row(NamedTuple):
    """A row of the paper's table, or layers between two of its rows.

    Args:
        name: as in the paper; a module path for layers that the sheet has no row for.
        printed: shape in the sheet; None if the sheet has no row.
        measured: shape of the module's output.
        params: number of parameters of the layers after the previous row.
        macs: multiply-adds of these layers.
        stated: values that the paper prints for the row.
    """

    name: str
    printed: tuple[int, ...] | None
    measured: tuple[int, ...]
    params: int
    macs: int
    stated: tuple[Stated, ...] = ()

    @property
    def mark(self) -> str:
        """Whether the shapes agree. A vector of n values may be printed as n x 1 x 1."""
        if self.printed is None:
            return ""
        return AGREES if _squeezed(self.printed) == _squeezed(self.measured) else DIFFERS


class Measured(NamedTuple):
    """A network without memory: what its modules compute, and their paths.

    Args:
        summary: the output shape of every module, and the totals.
        layers: the layers in the order they run, and after them modules with own parameters.
        stages: paths of the stem and the stages by name.
        rows: paths of all rows of the paper's table by name, stages included.
    """

    summary: Summary
    layers: tuple[SummaryRow, ...]
    stages: Mapping[str, str]
    rows: Mapping[str, str]


@cache
def measure(name: str) -> Measured:
    """Return the layers and shapes of a network with default options, without running it."""
    card, model = cnnarch.get_card(name), network(name)
    stages = dict(zip(model.stage_names, model.stage_paths, strict=True))
    found = summary(model, card.input_size)
    rows = {**stages, **facts_of(name).rows}
    return Measured(found, tuple(_layers(model, found)), stages, rows)


def _layers(model: cnnarch.ImageClassifier, found: Summary) -> list[SummaryRow]:
    """Return the layers, and each module that has parameters besides those of its layers."""
    layers = list(found.rows)
    listed = {row.path for row in layers}
    for path, module in model.named_modules():
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if own and path not in listed:
            row = SummaryRow(path, type(module).__name__, found.shapes[path], own, 0)
            layers.insert(_end(layers, path), row)
    return layers


def _end(layers: Sequence[SummaryRow], path: str) -> int:
    """Return the index after the last layer inside a module."""
    return 1 + max((i for i, row in enumerate(layers) if _is_inside(row.path, path)), default=-1)


def measured_rows(form: Form, measured: Measured) -> list[Row]:
    """Return a row for each row of the sheet, in the order the network computes them.

    Every layer that has parameters is in exactly one row.
    """
    printed = form.stages or dict.fromkeys(measured.stages, ())
    rows: list[Row] = []
    left = list(measured.layers)
    for name, shape in printed.items():
        path = measured.rows[name]
        end = _end(left, path)
        ran, left = left[:end], left[end:]
        own = [r for r in ran if _is_inside(r.path, path)]
        before = [r for r in ran if not _is_inside(r.path, path)]
        if any(r.params for r in before) and any(r.params for r in own):
            rows.append(_between(before))
        else:
            own = ran
        row = _sum(name, own, measured.summary.shapes[path])
        stated = form.stated_rows.get(name, ())
        rows.append(row._replace(printed=shape if form.stages else None, stated=stated))
    if any(r.params for r in left):
        rows.append(_between(left))
    return rows


def _is_inside(path: str, parent: str) -> bool:
    return f"{path}.".startswith(f"{parent}.")


def _between(layers: Sequence[SummaryRow]) -> Row:
    """Return the row of layers that the sheet does not name, with their module paths."""
    blocks = list(dict.fromkeys(".".join(r.path.split(".")[:3]) for r in layers if r.params))
    name = f"`{blocks[0]}`" if len(blocks) == 1 else f"`{blocks[0]}` to `{blocks[-1]}`"
    return _sum(name, layers, layers[-1].shape)


def _sum(name: str, layers: Sequence[SummaryRow], shape: tuple[int, ...]) -> Row:
    return Row(name, None, shape, sum(r.params for r in layers), sum(r.macs for r in layers))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:1] if len(shape) == 3 and shape[1:] == (1, 1) else shape


def rows_section(cards: Sequence[ModelCard], first: ModelCard) -> list[str]:
    """Return one table for each set of shapes in the sheet; the first one is open."""
    groups: dict[tuple[tuple[str, object], ...], list[ModelCard]] = {}
    for card in [first, *(c for c in sorted(cards, key=lambda c: c.macs) if c != first)]:
        key = (*card.form.stages.items(), *card.form.stated_rows.items())
        groups.setdefault(key, []).append(card)
    (_, shown), *others = groups.items()
    parts = [
        "## Sizes and costs",
        _introduction(first),
        _table_of(shown),
    ]
    parts += [details(_summary(group), _table_of(group)) for _, group in others]
    return parts


def _summary(group: Sequence[ModelCard]) -> str:
    return ", ".join(f"<code>{card.name}</code>" for card in group)


def _introduction(first: ModelCard) -> str:
    if not first.form.stages:
        return "The shape of each stage's output, and the cost of its layers."
    source = "are those of the paper's table or, if it has none, " if first.paper else ""
    return (
        f"The expected sizes (channels x height x width) {source}follow from the layers. {AGREES} "
        f"means that the measured sizes agree, {DIFFERS} that they do not. Parameters and "
        "multiply-adds (MACs) are those of the layers since the previous row."
    )


def _table_of(group: Sequence[ModelCard]) -> str:
    """Return the table of the first network, and the names of those with the same shapes."""
    card, *others = group
    measured = measure(card.name)
    rows = measured_rows(card.form, measured)
    totals = (f"{measured.summary.params:,}", "", f"{measured.summary.macs:,}", "")
    head = ("row", "expected", "measured", "", "parameters", "printed", "MACs", "printed")
    filled = without_empty_columns(head, [*map(_cells, rows), ("**total**", "", "", "", *totals)])
    text = f"`{card.name}`, images of {shape_text(card.input_size)}"
    if others and card.form.stages:
        names = ", ".join(f"`{other.name}`" for other in others)
        text += f". The same shapes, with different costs: {names}"
    notes = reasons((_name(row), s) for row in rows for s in row.stated)
    return "\n\n".join([f"{text}:", table(*filled), *([bullets(notes)] if notes else [])])


def _cells(row: Row) -> tuple[str, ...]:
    printed = shape_text(row.printed) if row.printed else ""
    exact = {"params": row.params, "macs": row.macs}
    costs = (
        cell
        for figure, ours in exact.items()
        for cell in (f"{ours:,}", printed_cell(row.stated, figure, ours))
    )
    return (_name(row), printed, shape_text(row.measured), row.mark, *costs)


def _name(row: Row) -> str:
    return row.name if row.name.startswith("`") else row.name.replace("_", "\\_")
