"""Read the settings of a module, to detect changes."""

from typing import Any

from torch import nn

_PLAIN = (bool, int, float, str, type(None))


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Return a module's class and its numbers, strings, functions, and sequences of these.

    A function may replace a method such as `forward`.
    """
    settings: dict[str, Any] = {
        name: list(value) if type(value) is list else value
        for name, value in vars(module).items()
        if name[0] != "_" and name != "training" and _is_setting(value)
    }
    return settings | {"class": type(module)}


def _is_setting(value: object) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind in (tuple, list):
        return all(map(_is_setting, value))  # type: ignore[call-overload]
    return callable(value)
