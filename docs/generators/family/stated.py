"""The values that a paper states, each with a mark that tells whether ours agrees."""

from collections.abc import Iterable

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
    """Return why values differ, each reason once with the values it explains."""
    found: dict[str, dict[str, None]] = {}
    for name, stated in values:
        if stated.departs:
            found.setdefault(stated.departs, {})[f"{name} ({stated.printed})"] = None
    return [f"{', '.join(names)}: {why}" for why, names in found.items()]
