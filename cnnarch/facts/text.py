"""Format shapes and tables as text without depending on optional packages."""

import re
import unicodedata
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
    widths = [max(map(display_width, cells)) for cells in columns]
    numbers = [all(map(is_number, cells[1:])) for cells in columns]
    return [
        "  ".join(
            pad(cell, width, right=number)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    print(*table_lines([header, *rows]), sep="\n")


def display_width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal; CJK characters take two.

    >>> display_width("cat"), display_width("\N{CJK UNIFIED IDEOGRAPH-732B}")
    (3, 2)
    """
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Fill a text with spaces up to a width in a terminal; `right` aligns it to the right."""
    spaces = " " * (width - display_width(text))
    return spaces + text if right else text + spaces


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
