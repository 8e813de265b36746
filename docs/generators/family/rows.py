"""The rows of a paper's table beside the maps, parameters and multiply-adds of the network."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch

import cnnarch
from cnnarch.analysis import Summary, SummaryRow, summary
from cnnarch.facts.cards import Form, ModelCard
from cnnarch.facts.sheets import facts_of
from cnnarch.facts.text import shape_text

from ..text import details, table, without_empty_columns

AGREES, DIFFERS = "✓", "≠"


class Row(NamedTuple):
    """A row of the paper's table, or layers between two of its rows.

    Args:
        name: as in the paper; a module path for layers that the sheet has no row for.
        printed: shape in the sheet; None if the sheet has no row.
        measured: shape of the module's output.
        params: number of parameters of the layers after the previous row.
        macs: multiply-adds of these layers.
    """

    name: str
    printed: tuple[int, ...] | None
    measured: tuple[int, ...]
    params: int
    macs: int

    @property
    def mark(self) -> str:
        """Whether the shapes agree. A vector of n values may be printed as n x 1 x 1."""
        if self.printed is None:
            return ""
        return AGREES if _squeezed(self.printed) == _squeezed(self.measured) else DIFFERS


class Measured(NamedTuple):
    """A network without memory: what its modules compute, and their paths.

    Args:
        summary: the layers in the order they run, and the output shape of every module.
        stages: paths of the stem and the stages by name.
        rows: paths of all rows of the paper's table by name, stages included.
    """

    summary: Summary
    stages: Mapping[str, str]
    rows: Mapping[str, str]


@cache
def built(name: str) -> cnnarch.ImageClassifier:
    """Return a network with default options that has shapes but no memory."""
    with torch.device("meta"):
        return cnnarch.get_model(name).eval()


@cache
def measure(name: str) -> Measured:
    """Return the layers and shapes of a network with default options, without running it."""
    card, model = cnnarch.get_card(name), built(name)
    stages = dict(zip(model.stage_names, model.stage_paths, strict=True))
    return Measured(summary(model, card.input_size), stages, {**stages, **facts_of(name).rows})


def measured_rows(form: Form, measured: Measured) -> list[Row]:
    """Return a row for each row of the sheet, in the order the network computes them.

    Every layer that has parameters is in exactly one row.
    """
    printed = form.stages or dict.fromkeys(measured.stages, ())
    rows: list[Row] = []
    left = list(measured.summary.rows)
    for name, shape in printed.items():
        path = measured.rows[name]
        end = 1 + max((i for i, r in enumerate(left) if _is_inside(r.path, path)), default=-1)
        ran, left = left[:end], left[end:]
        own = [r for r in ran if _is_inside(r.path, path)]
        before = [r for r in ran if not _is_inside(r.path, path)]
        if any(r.params for r in before) and any(r.params for r in own):
            rows.append(_between(before))
        else:
            own = ran
        row = _sum(name, own, measured.summary.shapes[path])
        rows.append(row._replace(printed=shape if form.stages else None))
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
    groups: dict[tuple[tuple[str, tuple[int, ...]], ...], list[ModelCard]] = {}
    for card in [first, *(c for c in sorted(cards, key=lambda c: c.macs) if c != first)]:
        groups.setdefault(tuple(card.form.stages.items()), []).append(card)
    (_, shown), *others = groups.items()
    parts = [
        "## The table of the paper, row by row" if first.paper else "## Row by row",
        _introduction(first),
        _table_of(shown),
    ]
    parts += [details(f"<code>{group[0].name}</code>", _table_of(group)) for _, group in others]
    return parts


def _introduction(first: ModelCard) -> str:
    if not first.form.stages:
        return "The shape of each stage's output, and the cost of its layers."
    source = "Sizes in the paper" if first.paper else "Sizes calculated by hand"
    return (
        f"{source} (channels x height x width) beside those of the network: {AGREES} means that "
        f"they agree, {DIFFERS} that they do not. Parameters and multiply-adds (MACs) are those of "
        "the layers since the previous row."
    )


def _table_of(group: Sequence[ModelCard]) -> str:
    """Return the table of the first network, and the names of those with the same shapes."""
    card, *others = group
    measured = measure(card.name)
    rows = [_cells(row) for row in measured_rows(card.form, measured)]
    total = ("**total**", "", "", "", f"{measured.summary.params:,}", f"{measured.summary.macs:,}")
    head = ("row", "printed", "measured", "", "parameters", "MACs")
    filled = without_empty_columns(head, [*rows, total])
    text = f"`{card.name}`, images of {shape_text(card.input_size)}"
    if others and card.form.stages:
        names = ", ".join(f"`{other.name}`" for other in others)
        text += f". The same shapes, with different costs: {names}"
    return f"{text}:\n\n{table(*filled)}"


def _cells(row: Row) -> tuple[str, ...]:
    printed = shape_text(row.printed) if row.printed else ""
    name = row.name.replace("_", "\\_") if not row.name.startswith("`") else row.name
    costs = (f"{row.params:,}", f"{row.macs:,}")
    return (name, printed, shape_text(row.measured), row.mark, *costs)
