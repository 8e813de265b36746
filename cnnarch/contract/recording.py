"""How a network comes to know the options that it was built with."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["recording"]


def recording(init: Callable[..., None]) -> Callable[..., None]:
    """The `__init__` of a class of networks that notes its keyword-only arguments, defaults too.

    A class that passes arguments on to another one notes them first, so they are what its caller
    chose; the other adds those of its own. A class that resolves one, such as a default of None,
    assigns its `options` anew after that.

    Args:
        init: as the class has it.
    """
    parameters = inspect.signature(init).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **given: Any) -> None:
        options = {name: given.get(name, default) for name, default in defaults.items()}
        # nn.Module has not been initialised yet, so this is the way around its attributes.
        noted = self.__dict__.setdefault("_options", {})
        self.__dict__["_options"] = {**options, **noted}
        init(self, *args, **given)

    return recorded
