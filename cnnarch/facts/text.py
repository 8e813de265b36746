"""Format shapes and tables as text without depending on optional packages."""

import re
from collections.abc import Iterable, Sequence


def shape_text(shape: Iterable[int], separator: str = "x") -> str:
    """Format a shape such as 3x224x224.

    >>> shape_text((3, 224, 224))
    '3x224x224'
    """
    return separator.join(map(str, shape))


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table with a header row. Numeric columns are right-aligned.

    >>> table_lines([("layer", "size"), ("conv", "10"), ("fc", "5")])
    ['layer  size', 'conv     10', 'fc        5']
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, cells)) for cells in columns]
    numbers = [all(map(is_number, cells[1:])) for cells in columns]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    print(*table_lines([header, *rows]), sep="\n")


def printable(text: str) -> str:
    r"""Escape line breaks, control characters and undecodable bytes, so that text fits on a line.

    >>> printable("two\nlines")
    'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def is_number(cell: str) -> bool:
    """Return whether a cell is empty, a number, a percentage or a shape."""
    return re.fullmatch(r"(\d[\d.,x]*(e[+-]\d+)?%?)?", cell) is not None
