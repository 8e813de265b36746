"""config.json: what a saved network needs besides its tensors, ours and timm's."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cnnarch.preprocessing import Preprocessing, preprocessing_from
from cnnarch.weights.errors import WeightsError
from cnnarch.weights.files import open_regular
from cnnarch.weights.foreign import timm_preprocessing

__all__ = ["CONFIG", "METADATA_KEY", "TENSORS", "Config", "parse_config", "read_config"]

CONFIG, TENSORS = "config.json", "model.safetensors"
METADATA_KEY = "cnnarch"  # under which our .safetensors files carry their config

_MOST_BYTES = 4 * 2**20  # ten thousand class names need a quarter of it


@dataclass(frozen=True)
class Config:
    """How to rebuild the network that a file of weights belongs to.

    Args:
        builder: cnnarch's, None if the file is not cnnarch's.
        architecture: what the library of the layout calls the network.
        options: for the builder.
        preprocessing: from an image to the network's input.
        categories: names of the classes in the order of the logits.
        version: of cnnarch that wrote it.
        weights: the file of tensors beside it; its sha256 if that is known.
    """

    builder: str | None = None
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    categories: tuple[str, ...] | None = None
    version: str | None = None
    weights: str = TENSORS
    sha256: str | None = None
    layout: str = "auto"

    def to_json(self) -> str:
        """As config.json holds it: what is known."""
        facts = {key: value for key, value in asdict(self).items() if value is not None}
        return json.dumps(facts, indent=2, ensure_ascii=False)


def read_config(path: Path) -> Config:
    """Read a config.json.

    Raises:
        WeightsError: it is too long, no JSON, or not a config.
    """
    with open_regular(path) as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise WeightsError(f"{path} has more than {_MOST_BYTES} bytes")
    return parse_config(text, str(path))


def parse_config(text: str | bytes, label: str) -> Config:
    """A config from JSON; `label` names it in errors.

    Raises:
        WeightsError: it is not JSON or not a config.
    """
    try:
        facts = dict(json.loads(text))
        return _from_cnnarch(facts) if "builder" in facts else _from_timm(facts)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{label} is not a config of cnnarch or timm: {error}") from error


def _from_cnnarch(facts: dict[str, Any]) -> Config:
    given = {key: facts[key] for key in Config.__dataclass_fields__ if key in facts}
    categories = facts.get("categories")
    given["preprocessing"] = preprocessing_from(facts.get("preprocessing"))
    given["categories"] = None if categories is None else tuple(map(str, categories))
    for name in ("builder", "weights", "layout"):
        if not isinstance(given.get(name, ""), str):
            raise TypeError(f"{name} is {given[name]!r:.50}")
    return Config(**{**given, "options": dict(given.get("options", {}))})


def _from_timm(facts: dict[str, Any]) -> Config:
    """From timm's words; nothing where it is yet another library's."""
    if "architecture" not in facts:
        return Config()
    pretrained = {**facts, **facts.get("pretrained_cfg", {})}
    options = {"num_classes": facts["num_classes"]} if "num_classes" in facts else {}
    return Config(
        architecture=str(facts["architecture"]),
        options=options,
        preprocessing=timm_preprocessing(pretrained) if "input_size" in pretrained else None,
        layout="timm",
    )
