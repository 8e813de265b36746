"""Save networks in timm's layout: timm's tensor names, and a config.json that timm reads."""

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnarch.facts.cards import Twin
from cnnarch.facts.sheets import facts_of, twins
from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.channels import first_convolutions
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.layouts import choose_layout, export
from cnnarch.weights.matching import pair_names, their_classifiers
from cnnarch.weights.rebuilding import build_on_meta

_TRAINING_OPTIONS = ("dropout", "drop_path", "norm_momentum", "zero_init_residual")
_SIZES = ("num_classes", "in_channels")


def timm_files(
    model: Any, preprocessing: Preprocessing | None, categories: tuple[str, ...] | None
) -> tuple[dict[str, Tensor], str]:
    """Return a network's tensors under timm's names and the contents of config.json.

    Args:
        model: the network.
        preprocessing: its preprocessing, which timm's config always contains.
        categories: its class names; None if they are unknown.

    Raises:
        WeightsError: timm does not provide the network or cannot represent its preprocessing.
    """
    twin = find_timm_twin(model)
    tensors = export(model, "timm")
    if preprocessing is None:
        raise WeightsError(
            "timm's layout records the preprocessing, which is unknown for this network: set its "
            "`preprocessing` first"
        )
    _check_size(twin, preprocessing.crop_size)
    facts: dict[str, Any] = {
        "architecture": twin.name,
        "num_classes": model.num_classes,
        "num_features": model.num_features,
    }
    if categories is not None:
        facts["label_names"] = list(categories)
    channels = {} if model.in_channels == 3 else {"in_chans": model.in_channels}
    if arguments := {**twin.arguments, **channels}:
        facts["model_args"] = arguments
    facts["pretrained_cfg"] = {
        **_their_preprocessing(preprocessing),
        **_their_layers(model),
        "num_classes": model.num_classes,
    }
    return tensors, json.dumps(facts, indent=2, ensure_ascii=False)


def _check_size(twin: Twin, side: int) -> None:
    """Raise WeightsError if timm's network does not accept square images of this side."""
    only = twin.one_size
    if only is True:
        only = facts_of(twin.builder).forms[0].input_size[-1]
    if (only and side != only) or side % twin.multiple_of:
        sides = f"of {only} pixels" if only else f"whose sides are multiples of {twin.multiple_of}"
        raise WeightsError(
            f"timm's {twin.name} accepts only images {sides}, but the network's preprocessing "
            f"crops them to {side}"
        )


def find_timm_twin(model: Any) -> Twin:
    """Return the network of timm that computes the same as this one.

    Raises:
        WeightsError: there is none.
    """
    found = twins(model.builder, "timm")
    if not found:
        raise WeightsError(
            f"timm does not provide {model.builder}, so it can only be saved in cnnarch's layout"
        )
    conflicts = [_conflicts(model, twin) for twin in found]
    if {} in conflicts:
        return found[conflicts.index({})]
    fewest = min(conflicts, key=len)
    twin = found[conflicts.index(fewest)]
    needs = ", ".join(f"{name}={value!r}" for name, value in fewest.items())
    has = ", ".join(f"{name}={model.options[name]!r}" for name in fewest)
    raise WeightsError(f"timm's {twin.name} equals ours built with {needs}, but this one has {has}")


def _conflicts(model: Any, twin: Twin) -> dict[str, Any]:
    """Return the options for which the network has another value than timm's."""
    needed = {**build_on_meta(model.builder, {}).options, **twin.options}
    free = (*_TRAINING_OPTIONS, *_SIZES)
    return {k: v for k, v in needed.items() if k not in free and model.options[k] != v}


def _their_layers(model: nn.Module) -> dict[str, Any]:
    """Return timm's names for the layers that it replaces for other classes or channels."""
    layout = choose_layout(model, "timm")
    names = pair_names(model, layout) or {}
    first = [names[name].theirs.removesuffix(".weight") for name in first_convolutions(model)]
    classifiers = their_classifiers(model, layout)
    return {
        "first_conv": first[0] if len(first) == 1 else first,
        "classifier": classifiers[0] if len(classifiers) == 1 else classifiers,
    }


def _their_preprocessing(preprocessing: Preprocessing) -> Mapping[str, Any]:
    """Convert a preprocessing to timm's terms.

    Raises:
        WeightsError: timm has no such preprocessing.
    """
    if not preprocessing.antialias:
        raise WeightsError(
            "timm always filters images before downsampling, but the network's preprocessing has "
            "antialias=False"
        )
    size = preprocessing.crop_size
    return {
        "input_size": [len(preprocessing.mean), size, size],
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_fraction(size, preprocessing.resize_size),
        "crop_mode": "squash" if preprocessing.squash else "center",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def _crop_fraction(crop_size: int, resize_size: int) -> float:
    """Return the fraction from which timm computes `resize_size = floor(crop_size / fraction)`.

    >>> _crop_fraction(224, 256)
    0.875
    """
    fraction = crop_size / resize_size
    if math.floor(crop_size / fraction) < resize_size:  # the division was rounded
        fraction = math.nextafter(fraction, 0.0)
    return fraction
