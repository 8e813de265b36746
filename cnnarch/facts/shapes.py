"""Shapes as text."""

from collections.abc import Iterable

__all__ = ["shape_text"]


def shape_text(shape: Iterable[int], separator: str = "x") -> str:
    """Format a shape such as 3x224x224.

    >>> shape_text((3, 224, 224))
    '3x224x224'
    """
    return separator.join(map(str, shape))
