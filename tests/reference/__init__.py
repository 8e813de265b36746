"""The papers' figures: what the networks are tested against, from sources other than the code."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import cnnarch

Shape = tuple[int, ...]


class Row(NamedTuple):
    """Figures of one network under one set of options; see the head of models.yaml."""

    builder: str
    options: dict[str, Any]
    family: str
    input_size: tuple[int, int, int]
    num_classes: int
    params: int
    macs: int
    stage_shapes: dict[str, Shape]
    other_counts: dict[str, int]

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options.items())
        return "-".join(filter(None, [self.builder, options, str(self.input_size[-1])]))

    def build(self, **options: Any) -> cnnarch.ImageClassifier:
        return cnnarch.get_model(self.builder, **self.options, **options)


@cache
def _all_rows() -> tuple[Row, ...]:
    text = (Path(__file__).parent / "models.yaml").read_text()
    return tuple(
        Row(
            builder=entry["builder"],
            options=entry.get("options", {}),
            family=entry["family"],
            input_size=tuple(entry["input_size"]),
            num_classes=entry["num_classes"],
            params=entry["params"],
            macs=entry["macs"],
            stage_shapes={name: tuple(shape) for name, shape in entry["stage_shapes"]},
            other_counts=entry.get("other_counts", {}),
        )
        for entry in yaml.safe_load(text)
    )


def reference_rows(*families: str) -> list[Row]:
    """Rows of these families, as models.yaml names them; of all without an argument."""
    return [row for row in _all_rows() if not families or row.family in families]
