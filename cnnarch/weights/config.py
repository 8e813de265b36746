"""Read and write config.json, the metadata of saved weights, in cnnarch's and timm's formats."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnnarch.facts.sheets import twins
from cnnarch.preprocessing import Preprocessing, preprocessing_from
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular

CONFIG, TENSORS = "config.json", "model.safetensors"

_MAX_BYTES = 4 * 2**20  # 10,000 class names take up a quarter of this limit


@dataclass(frozen=True)
class Config:
    """Metadata of a weights file, sufficient to rebuild a network saved by cnnarch.

    Args:
        builder: name of the builder, or None if cnnarch did not write the file.
        architecture: name of the network in the library given by `layout`.
        options: options for the builder.
        preprocessing: converts an image into the network's input.
        categories: class names in the order of the logits.
        conversions: the network's `conversions`.
        edits: descriptions of layers that were changed by hand.
        version: version of cnnarch that wrote the file.
        weights: name of the weights file in the same folder.
        sha256: full hash of that file or its leading hex digits; None if unknown.
        layout: library whose tensor names the file uses; "auto" detects it.
    """

    builder: str | None = None
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    categories: tuple[str, ...] | None = None
    conversions: tuple[tuple[str, Any], ...] = ()
    edits: tuple[str, ...] = ()
    version: str | None = None
    weights: str = TENSORS
    sha256: str | None = None
    layout: str = "auto"

    def to_json(self) -> str:
        """Return the contents of config.json, omitting unknown values."""
        facts = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        return json.dumps(facts, indent=2, ensure_ascii=False)


def read_config(path: Path) -> Config:
    """Read a config.json.

    Raises:
        WeightsError: the file is too large, not JSON, or not a config.
    """
    with open_regular(path) as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise WeightsError(f"{path} is larger than {_MAX_BYTES} bytes")
    return parse_config(text, str(path))


def parse_config(text: str | bytes, label: str) -> Config:
    """Parse a config; error messages call it `label`.

    Raises:
        WeightsError: the text is not JSON or not a config.
    """
    try:
        facts = dict(json.loads(text))
        return _parse_cnnarch(facts) if "builder" in facts else _parse_timm(facts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{label} is not a cnnarch or timm config: {error}") from error


def _parse_cnnarch(facts: dict[str, Any]) -> Config:
    given = {key: facts[key] for key in Config.__dataclass_fields__ if key in facts}
    categories = facts.get("categories")
    given["preprocessing"] = preprocessing_from(facts.get("preprocessing"))
    given["categories"] = None if categories is None else tuple(map(str, categories))
    given["edits"] = tuple(map(str, facts.get("edits", ())))
    given["conversions"] = tuple((str(k), v) for k, v in facts.get("conversions", ()))
    for name in ("builder", "weights", "layout"):
        if not isinstance(given.get(name, ""), str):
            raise TypeError(f"{name} is {given[name]!r:.50}")
    return Config(**{**given, "options": dict(given.get("options", {}))})


def _parse_timm(facts: dict[str, Any]) -> Config:
    """Parse a timm config; the config of any other library yields an empty config."""
    if "architecture" not in facts:
        return Config()
    pretrained = {**facts, **facts.get("pretrained_cfg", {})}
    architecture = str(facts["architecture"])
    options = {"num_classes": facts["num_classes"]} if "num_classes" in facts else {}
    same = [twin for twin in twins(library="timm") if twin.name == architecture]
    return Config(
        architecture=architecture,
        options={**options, **(same[0].options if same else {})},
        categories=_parse_timm_labels(pretrained),
        preprocessing=parse_timm_preprocessing(pretrained) if "input_size" in pretrained else None,
        layout="timm",
    )


def _parse_timm_labels(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the class names, or their descriptions if the names are identifiers."""
    names = facts.get("label_names")
    if not isinstance(names, list):  # a mapping has gaps
        return None
    descriptions = dict(facts.get("label_descriptions") or {})
    return tuple(str(descriptions.get(name, name)) for name in names)


def parse_timm_preprocessing(facts: Mapping[str, Any]) -> Preprocessing | None:
    """Convert timm's preprocessing; return None unless it is a square crop without a border."""
    *_, height, side = facts["input_size"]
    crop_mode = facts.get("crop_mode", "center")
    if crop_mode not in ("center", "squash") or height != side:
        return None
    return Preprocessing(
        crop_size=side,
        resize_size=math.floor(side / facts["crop_pct"]),
        interpolation=facts["interpolation"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
        squash=crop_mode == "squash",
    )
