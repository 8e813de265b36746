"""Tables in a terminal, without rich, so that `cnnarch list` works without any extra."""

from collections.abc import Sequence

__all__ = ["show_table"]


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    numbers = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        cells = zip(row, widths, numbers, strict=True)
        print("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in cells).rstrip())


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").replace(".", "").rstrip("%").isdigit()
