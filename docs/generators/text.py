"""Write generated pages and their tables in Markdown."""

import re
from collections.abc import Sequence
from pathlib import Path

NUMBER = re.compile(r"[\d.,x]+(e[+-]?\d+)?[KMGB%]?(\N{NO-BREAK SPACE}[✓≠?]| x)?")
"""A cell that belongs in a right-aligned column: a number, a shape, a number and its mark."""


def write(path: Path, text: str) -> None:
    """Write a page only if it has changed, so Sphinx does not process it again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Return a Markdown table whose columns of numbers are right-aligned.

    Args:
        head: titles of the columns.
        rows: cells of each row.
        kind: CSS class of the table, for example "sortable".
    """
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    rules = ["--:" if is_numeric(column) else "---" for column in columns]
    lines = "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rules, *rows])
    return f"```{{table}}\n:class: {kind}\n\n{lines}\n```" if kind else lines


def is_numeric(cells: Sequence[str]) -> bool:
    """Return whether a column contains numbers and, apart from them, only empty cells."""
    filled = [cell for cell in cells if cell]
    return filled != [] and all(map(NUMBER.fullmatch, filled))


def without_empty_columns(
    head: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table without its columns of empty cells."""
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in rows]


def details(summary: str, text: str) -> str:
    """Return a section that readers open with a click or a key."""
    return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>"


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
