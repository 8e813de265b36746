"""What is known of a checkpoint besides its tensors, and the catalog of those with a name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from cnnarch.preprocessing import Preprocessing, preprocessing_from

__all__ = ["NOT_STATED", "Weights", "find_by_url", "find_weights", "get_weights"]

NOT_STATED = "not stated"
"""Licence of weights whose publisher names none."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint that can be fetched, and all that is known of it; None is "not known".

    Args:
        url: where it is: an https address, "hf-hub:owner/name[@revision]", or
            "package:module/path" for a file that an installed package brings.
        network: the builder it is for.
        tag: its name in the catalog.
        sha256: hash of the file in hexadecimal, whole or its beginning.
        file_size: in MiB.
        layout: whose names its tensors have; "auto" finds out.
        architecture: what that library calls the network.
        num_classes: width of its logits.
        in_channels: channels of its images.
        options: builder options that it depends on and that tensors do not show.
        preprocessing: from an image to the network's input.
        labels: name of the list of its classes, such as "imagenet1k".
        metrics: accuracies in percent, as published.
        dataset: that the metrics are measured on.
        license: of the weights, "not stated" where the publisher names none.
        source: page that describes how they were made.
    """

    url: str
    network: str | None = None
    tag: str | None = None
    sha256: str | None = None
    file_size: float | None = None
    layout: str = "auto"
    architecture: str | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    preprocessing: Preprocessing | None = None
    labels: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    dataset: str | None = None
    license: str = NOT_STATED
    source: str | None = None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of the logits, None if they are not known."""
        return _labels(self.labels) if self.labels else None


def get_weights(name: str) -> dict[str, Weights]:
    """The checkpoints in the catalog for a network, by tag; empty if there are none.

    The first is what `weights="DEFAULT"` means; that choice is kept within a major version.

    Args:
        name: a builder's name.

    >>> list(get_weights("resnet18"))[0]
    'IMAGENET1K_V1'
    """
    return dict(_catalog().get(name, {}))


def find_weights(name: str | None, tag: str) -> Weights | None:
    """The catalog's checkpoint for a network by its tag, in any case, or "DEFAULT"."""
    entries = _catalog().get(name or "", {})
    if tag.upper() == "DEFAULT":
        return next(iter(entries.values()), None)
    return entries.get(tag.upper())


def find_by_url(url: str) -> Weights | None:
    """The catalog's checkpoint at an address."""
    entries = (e for by_tag in _catalog().values() for e in by_tag.values())
    return next((e for e in entries if e.url == url), None)


@cache
def _catalog() -> dict[str, dict[str, Weights]]:
    text = resources.files(__package__).joinpath("catalog.json").read_text()
    return {
        network: {tag: _entry(network, tag, facts) for tag, facts in entries.items()}
        for network, entries in json.loads(text).items()
    }


def _entry(network: str, tag: str, facts: dict[str, Any]) -> Weights:
    preprocessing = facts.pop("preprocessing", None)
    return Weights(
        network=network,
        tag=tag,
        preprocessing=preprocessing_from(preprocessing),
        **facts,
    )


@cache
def _labels(name: str) -> tuple[str, ...]:
    text = resources.files(__package__).joinpath(f"{name}.txt").read_text()
    return tuple(text.splitlines())
