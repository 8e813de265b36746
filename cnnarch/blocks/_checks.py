"""Checks of what users pass: each error says what came and what is allowed."""

import math
from collections.abc import Iterable
from numbers import Integral, Real

import torch
from torch import Tensor

__all__ = [
    "check_choice",
    "check_images",
    "check_integer",
    "check_positive",
    "check_probability",
]


def check_choice(name: str, value: object, allowed: Iterable[object]) -> None:
    """Raise ValueError unless `value` is one of those allowed."""
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise ValueError(f"{name} must be one of {listed}, got {value!r}")


def check_integer(name: str, value: object, minimum: int) -> None:
    """Raise ValueError unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or int(value) < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")


def check_probability(name: str, value: object) -> None:
    """Raise ValueError unless `value` is a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")


def check_images(x: Tensor, in_channels: int, min_size: int, fixed_size: bool) -> Tensor:
    """Return `x` if it is a batch of images that a network accepts, else raise ValueError.

    Symbolic tracing keeps the call only if its result is used, so networks go on with it.
    """
    if torch.compiler.is_compiling():  # compiled and exported programs guard their own sizes
        return x
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f"expected images of shape (N, {in_channels}, H, W), got {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if fixed_size and (height, width) != (min_size, min_size):
        raise ValueError(f"expected images of {min_size}x{min_size} pixels, got {height}x{width}")
    if min(height, width) < min_size:
        raise ValueError(
            f"expected images of at least {min_size}x{min_size} pixels, got {height}x{width}"
        )
    return x
