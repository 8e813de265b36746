"""The options that a network was built with, which its state dicts carry in their metadata."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin

from torch import nn

from cnnarch.blocks._checks import check_boolean, check_choice
from cnnarch.facts.options import METADATA_KEY, find_norms


class RecordsOptions(nn.Module):
    """A network or backbone that records its builder and options.

    The tensors of a state dict do not show options such as padding. A network therefore writes
    them to the metadata of its state dicts, and checks them when it loads one.
    """

    builder: str | None = None
    """Name of the builder that constructed the network, or None if it was constructed directly."""
    given_options: frozenset[str] = frozenset()
    """Names of the options that the caller passed."""

    conversions: tuple[tuple[str, Any], ...] = ()
    """Conversions of the whole network and their argument, such as ("dilate", 8), in order."""

    _options: Mapping[str, Any] = {}

    @property
    def options(self) -> dict[str, Any]:
        """A copy of all options with their effective values, including defaults.

        The options describe how the network was built. The numbers of classes and channels and
        `norm_eps` reflect the current layers. Other changes to layers do not appear here, and
        `save_pretrained` rejects them.
        """
        options = {**self._options, **self._sizes()}
        if "norm_eps" in options and len(eps := {norm.eps for norm in find_norms(self)}) == 1:
            options["norm_eps"] = eps.pop()
        return options

    @options.setter
    def options(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)

    def _sizes(self) -> dict[str, int]:
        """Return the options that follow the layers."""
        return {}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", None)
        if metadata is not None:
            from cnnarch.weights.recorded import describe

            metadata[prefix[:-1]][METADATA_KEY] = describe(self)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, *rest: Any
    ) -> None:
        names = {k.removeprefix(prefix) for k in state_dict if k.startswith(prefix)}
        if names:
            from cnnarch.weights.recorded import adopt_options

            adopt_options(self, local_metadata.get(METADATA_KEY), strict, names)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *rest)


def recording_options(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a network class's `__init__` to check and record its keyword-only arguments.

    The values of flags and choices are checked, as their annotations show them. Defaults are also
    recorded. A subclass records the caller's values before it calls the
    `__init__` of its base class, which adds only options not yet recorded. A class that resolves a
    value, such as a default of None, assigns `options` again afterwards.
    """
    parameters = inspect.signature(init).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    annotations = {p.name: p.annotation for p in parameters if p.name in defaults}

    @functools.wraps(init)
    def recorded(self: Any, *args: Any, **given: Any) -> None:
        for name, annotation in annotations.items():
            if name in given:
                _check_option(name, given[name], annotation)
        options = {name: given.get(name, default) for name, default in defaults.items()}
        # nn.Module cannot set attributes before its __init__ has run.
        recorded_before = self.__dict__.get("_options", {})
        self.__dict__["_options"] = {**options, **recorded_before}
        self.__dict__["given_options"] = self.given_options | given.keys()
        init(self, *args, **given)

    return recorded


def _check_option(name: str, value: object, annotation: object) -> None:
    """Raise ValueError if a flag or choice does not have one of its values."""
    if annotation is bool or annotation == bool | None:
        check_boolean(name, value, or_none=annotation is not bool)
    elif get_origin(annotation) is Literal:
        check_choice(name, value, get_args(annotation))
