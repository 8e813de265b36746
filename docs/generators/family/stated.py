"""The values that a paper states, each with a mark that tells whether ours agrees."""

from collections.abc import Iterable, Mapping

from cnnarch.facts.cards import Stated

FIGURES = {
    "params": "parameters",
    "macs": "MACs",
    "top1_err": "top-1 error",
    "top5_err": "top-5 error",
}
AGREES, DIFFERS, UNCONFIRMED = "✓", "≠", "?"
SPACE = "\N{NO-BREAK SPACE}"


def printed_cell(stated: Iterable[Stated], figure: str, exact: int | None) -> str:
    """Return the numbers that the paper prints for a figure, each with its mark."""
    found = [f"{s.printed}{SPACE}{mark(s, exact)}" for s in stated if s.figure == figure]
    return ", ".join(text.strip() for text in dict.fromkeys(found))


def mark(stated: Stated, exact: int | None) -> str:
    """Return whether a number agrees with ours; nothing for an error rate."""
    if not stated.confirmed:
        return UNCONFIRMED
    if exact is None:
        return ""
    return AGREES if stated.agrees(exact) else DIFFERS


def reasons(values: Iterable[tuple[str, Stated]]) -> list[str]:
    """Return why values differ, each reason once with the values it explains.

    Args:
        values: the name of a network or a row, and a value that the paper states for it.
    """
    found: dict[str, dict[str, dict[str, None]]] = {}
    for name, stated in values:
        if stated.departs:
            names = found.setdefault(stated.departs, {}).setdefault(FIGURES[stated.figure], {})
            names[f"{name} ({stated.printed})"] = None
    return [f"{list_figures(figures)}: {why}" for why, figures in found.items()]


def list_figures(figures: Mapping[str, Iterable[str]]) -> str:
    """Return the names for each figure, as in "Parameters of a, b; MACs of c"."""
    text = "; ".join(f"{figure} of {', '.join(names)}" for figure, names in figures.items())
    return text[:1].upper() + text[1:]
