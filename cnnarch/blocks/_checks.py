"""Argument checks whose error messages state both the received and the allowed values."""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real


def check_boolean(name: str, value: object, *, or_none: bool = False) -> None:
    """Raise ValueError unless `value` is True or False, or None if `or_none` allows it."""
    if not isinstance(value, bool) and not (or_none and value is None):
        allowed = "True, False or None" if or_none else "True or False"
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


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


def check_number(name: str, value: object, allowed: str, holds: Callable[[float], bool]) -> None:
    """Raise ValueError unless `value` is a number for which `holds` returns True."""
    if isinstance(value, bool) or not isinstance(value, Real) or not holds(float(value)):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number greater than 0."""
    check_number(name, value, "a number above 0", lambda number: 0 < number < math.inf)


def check_probability(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a number in [0, 1)."""
    check_number(name, value, "in [0, 1)", lambda number: 0 <= number < 1)
