"""Tables in a terminal."""

import sys
from collections.abc import Sequence

__all__ = ["show_table"]

WIDTH = 120  # letters a line where no terminal says how many


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table by rich, or plain columns where rich is not installed."""
    numbers = [all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = zip(row, widths, numbers, strict=True)
            print("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in cells).rstrip())
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, right in zip(columns, numbers, strict=True):
        table.add_column(column, justify="right" if right else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else WIDTH, markup=False, highlight=False).print(
        table
    )


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").replace(".", "").rstrip("%").isdigit()
