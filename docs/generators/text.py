"""Write generated pages and their tables in Markdown."""

from collections.abc import Sequence
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Write a page only if it has changed, so Sphinx does not process it again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
