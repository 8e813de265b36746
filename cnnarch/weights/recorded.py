"""The options that a state dict records in its metadata, because its tensors do not show them."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from cnnarch.facts.options import FREE, METADATA_KEY, find_conflicts, find_norms
from cnnarch.weights.errors import UnrecordedOptionsWarning
from cnnarch.weights.rebuilding import hidden_options

warnings.simplefilter("always", UnrecordedOptionsWarning, append=True)


def recorded_in(state_dict: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the builder and options of the network in a state dict; None if it records none.

    If the state dict contains several networks, they must agree.
    """
    metadata = getattr(state_dict, "_metadata", None)
    entries = metadata.values() if isinstance(metadata, Mapping) else ()
    found = [e[METADATA_KEY] for e in entries if isinstance(e, Mapping) and METADATA_KEY in e]
    return found[0] if found and all(each == found[0] for each in found) else None


def adopt_options(model: Any, recorded: Mapping[str, Any] | None, strict: bool) -> None:
    """Set a network's eps to the recorded one before `load_state_dict` sets its tensors.

    Raises:
        RuntimeError: the network has a different builder or other options, which cannot be changed,
            or the description is malformed.
    """
    if recorded is None:
        warn_if_unrecorded(model, "the state dict")
        return
    if not (isinstance(recorded, Mapping) and isinstance(recorded.get("options"), Mapping)):
        raise RuntimeError(f"the state dict describes its network incorrectly: {recorded!r:.200}")
    builder, options = recorded.get("builder"), recorded["options"]
    if builder != model.builder and None not in (builder, model.builder):
        if strict:
            raise RuntimeError(f"the state dict is of {builder}, not of {model.builder}")
        return
    required = {name: value for name, value in options.items() if name not in FREE}
    conflicts = find_conflicts(model, required)
    fixed = [name for name in conflicts if name != "norm_eps"]
    if fixed:
        theirs = ", ".join(f"{name}={conflicts[name]!r}" for name in fixed)
        ours = ", ".join(f"{name}={model.options.get(name)!r}" for name in fixed)
        raise RuntimeError(
            f"the state dict is of a network with {theirs}, but this one has {ours}: build it with "
            f"{theirs}"
        )
    if problem := find_other_dilation(model, recorded.get("conversions", ())):
        raise RuntimeError(f"the state dict {problem}")
    for norm in find_norms(model) if conflicts else ():
        norm.eps = conflicts["norm_eps"]
    model.options = {**model.options, **conflicts}


def find_other_dilation(model: Any, conversions: Iterable[tuple[str, Any]]) -> str:
    """Return how the dilation of a checkpoint's network differs; empty if it does not.

    Any weights may be loaded into a dilated network, because dilation preserves them.
    """
    wanted, found = (
        [argument for name, argument in each if name == "dilate"]
        for each in (conversions, getattr(model, "conversions", ()))
    )
    if found or not wanted:
        return ""
    return f"is of a network with output stride {wanted[-1]}, but this one is not dilated"


def warn_if_unrecorded(model: Any, label: str) -> None:
    """Warn that a checkpoint does not record options that the caller did not pass either."""
    if getattr(model, "builder", None) is None:
        return
    unknown = [name for name in hidden_options(model.builder) if name not in model.given_options]
    if unknown:
        assumed = ", ".join(f"{name}={model.options[name]!r}" for name in unknown)
        warnings.warn(
            f"{label} does not record {' and '.join(unknown)}, which its tensors do not show; this "
            f"network has {assumed}. Pass the right values to the builder",
            UnrecordedOptionsWarning,
            stacklevel=5,
        )
