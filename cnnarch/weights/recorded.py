"""What a state dict records in its metadata about its network, because its tensors do not show it.

Each network in a state dict has an entry of its own, under the path of its module.
"""

import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from typing import Any

from cnnarch.blocks._wrappers import uncompiled
from cnnarch.facts.options import FREE, METADATA_KEY, find_conflicts, find_norms
from cnnarch.preprocessing import preprocessing_from
from cnnarch.weights.errors import UnrecordedOptionsWarning
from cnnarch.weights.rebuilding import edited_layers, hidden_options, listed

warnings.simplefilter("always", UnrecordedOptionsWarning, append=True)


def describe(model: Any) -> dict[str, Any]:
    """Return a network's builder, options that are plain data, and other facts that are known."""
    plain = (bool, int, float, str, type(None))
    options = {k: v for k, v in model.options.items() if isinstance(v, plain)}
    preprocessing = getattr(model, "preprocessing", None)
    facts = {
        "conversions": model.conversions,
        "edits": edited_layers(model),
        "preprocessing": asdict(preprocessing) if preprocessing else None,
        "categories": list(getattr(model, "categories", None) or ()),
    }
    known = {name: value for name, value in facts.items() if value}
    return {"builder": model.builder, "options": options} | known


def recorded_in(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the descriptions of the networks in a state dict by their module paths."""
    metadata = getattr(state_dict, "_metadata", None)
    entries = metadata.items() if isinstance(metadata, Mapping) else ()
    return {
        uncompiled(f"{path}.").rstrip("."): entry[METADATA_KEY]
        for path, entry in entries
        if isinstance(entry, Mapping) and METADATA_KEY in entry
    }


def adopt_options(
    model: Any, recorded: Mapping[str, Any] | None, strict: bool, names: Collection[str]
) -> None:
    """Set a network's eps and facts to the recorded ones before `load_state_dict` sets its tensors.

    Args:
        model: the network.
        recorded: the description in the state dict; None if there is none.
        strict: whether a different builder is an error.
        names: the names of the network's tensors in the state dict.

    Raises:
        RuntimeError: the network has a different builder or other options, which cannot be changed,
            or the description is malformed.
    """
    if recorded is None:
        if any(name in names for name, _ in model.named_parameters()):  # else loading fails
            warn_if_unrecorded(model, "the state dict")
        return
    changes = find_changes(model, recorded, "the state dict")
    if changes is None:
        if strict:
            raise RuntimeError(
                f"the state dict is of {recorded['builder']}, not of {model.builder}"
            )
        return
    set_eps(model, changes)
    model.preprocessing = preprocessing_from(recorded.get("preprocessing"))
    categories = tuple(recorded.get("categories", ()))
    if any(name.startswith("head.classifier.") for name in names):
        fits = categories and len(categories) == model.num_classes
        model.categories = categories if fits else None
    warn_if_edited(model, recorded.get("edits", ()), "the state dict")


def find_changes(model: Any, recorded: Any, label: str) -> dict[str, Any] | None:
    """Return the options that must change to fit a description; None if it is of another builder.

    Raises:
        RuntimeError: an option other than eps differs, or the description is malformed.
    """
    if not (isinstance(recorded, Mapping) and isinstance(recorded.get("options"), Mapping)):
        raise RuntimeError(f"{label} describes its network incorrectly: {recorded!r:.200}")
    builder, options = recorded.get("builder"), recorded["options"]
    if builder != model.builder and None not in (builder, model.builder):
        return None
    hidden = hidden_options(model.builder) if model.builder else ()
    chosen = [name for name in hidden if name in FREE and name not in model.given_options]
    required = {k: v for k, v in options.items() if k not in FREE or k in chosen}
    conflicts = find_conflicts(model, required)
    fixed = [name for name in conflicts if name != "norm_eps"]
    if fixed:
        theirs = ", ".join(f"{name}={conflicts[name]!r}" for name in fixed)
        ours = ", ".join(f"{name}={model.options.get(name)!r}" for name in fixed)
        raise RuntimeError(
            f"{label} is of a network with {theirs}, but this one has {ours}: build it with "
            f"{theirs}"
        )
    if problem := find_other_dilation(model, recorded.get("conversions", ())):
        raise RuntimeError(f"{label} {problem}")
    return conflicts


def set_eps(model: Any, changes: Mapping[str, Any]) -> None:
    """Set the eps of all norms if it is among the changed options."""
    for norm in find_norms(model) if "norm_eps" in changes else ():
        norm.eps = changes["norm_eps"]


def find_other_dilation(model: Any, conversions: Iterable[tuple[str, Any]]) -> str:
    """Return how the dilation of a checkpoint's network differs; empty if it does not.

    Weights may be loaded into a network with a smaller output stride, because dilation preserves
    them.
    """
    wanted, found = (
        [argument for name, argument in each if name == "dilate"]
        for each in (conversions, getattr(model, "conversions", ()))
    )
    if not wanted or (found and found[-1] <= wanted[-1]):
        return ""
    own = f"has {found[-1]}" if found else "is not dilated"
    return f"is of a network with output stride {wanted[-1]}, but this one {own}"


def warn_if_edited(model: Any, edits: Iterable[str], label: str) -> None:
    """Warn of layers that were changed by hand in a checkpoint's network, but not in this one."""
    own = edited_layers(model) if edits else []
    missing = [edit for edit in edits if edit not in own]
    if missing:
        warnings.warn(
            f"{label} is of a network whose layers were changed after it was built: "
            f"{listed(missing)}. Change them here too, or the outputs differ",
            stacklevel=5,
        )


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
