"""Argument checks. Each error message states the received value and the allowed values."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real

__all__ = [
    "check_choice",
    "check_integer",
    "check_length",
    "check_positive",
    "check_probability",
]


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raise ValueError unless `value` is an integer >= `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def check_length(name: str, value: object, length: int) -> None:
    """Raise ValueError unless `value` is a sequence with `length` entries."""
    if not isinstance(value, Sequence) or len(value) != length:
        raise ValueError(f"{name} must have {length} entries, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number greater than 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")


def check_probability(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
