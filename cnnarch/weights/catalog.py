"""Catalog entries: where a checkpoint is published and its published metadata."""

import inspect
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from torch import nn

from cnnarch.preprocessing import Preprocessing, preprocessing_from
from cnnarch.weights.config import Config
from cnnarch.weights.urls import hash_in_name

NOT_STATED = "not stated"
"""License of weights whose publisher does not specify one."""

TORCHVISION_METRICS = "https://docs.pytorch.org/vision/stable/models.html"
"""Page that lists the accuracies of torchvision's checkpoints."""

_IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Weights:
    """A checkpoint that can be downloaded, with its metadata. None means unknown.

    Args:
        url: an https URL, "hf-hub:owner/name[@revision]", or "package:module/path" for a
            file that is part of an installed package.
        network: name of the builder.
        tag: name in the catalog.
        sha256: full hash of the file or its leading hex digits.
        file_size: size of the file in MiB.
        layout: library whose tensor names the file uses; "auto" detects it.
        architecture: name of the network in that library.
        num_classes: number of logits.
        in_channels: number of image channels.
        options: builder options that the checkpoint requires but that cannot be inferred from its
            tensors.
        preprocessing: converts an image into the network's input.
        labels: name of the list of class names, for example "imagenet1k".
        metrics: published accuracies in percent, measured with `preprocessing`: "acc@1" is top-1
            and "acc@5" top-5 accuracy.
        dataset: data set on which the metrics were measured.
        metrics_source: page or file that publishes the metrics.
        license: license of the weights; "not stated" if the publisher does not specify one.
        source: page that describes how the weights were trained.
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
    metrics_source: str | None = None
    license: str = NOT_STATED
    source: str | None = None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """Class names in the order of the logits; None if unknown."""
        return _read_labels(self.labels) if self.labels else None

    @property
    def config(self) -> Config:
        """The metadata used to load the checkpoint."""
        sizes = {"num_classes": self.num_classes, "in_channels": self.in_channels}
        return Config(
            builder=self.network,
            architecture=self.architecture,
            options={**{k: v for k, v in sizes.items() if v is not None}, **self.options},
            preprocessing=self.preprocessing,
            categories=self.categories,
            layout=self.layout,
        )


def get_weights(name: str) -> dict[str, Weights]:
    """Return a network's checkpoints in the catalog, keyed by tag; empty if there are none.

    `weights="DEFAULT"` selects the first one, which does not change within a major version.

    Args:
        name: name of a builder.

    >>> list(get_weights("resnet18"))[0]
    'IMAGENET1K_V1'
    """
    return dict(_read_catalog().get(name, {}))


def find_weights(name: str | None, tag: str) -> Weights | None:
    """Return the network's checkpoint with this tag (case-insensitive) or "DEFAULT"."""
    entries = _read_catalog().get(name or "", {})
    if tag.upper() == "DEFAULT":
        return next(iter(entries.values()), None)
    return entries.get(tag.upper())


def find_by_url(url: str) -> Weights | None:
    """Return the catalog's checkpoint at a URL."""
    entries = (e for by_tag in _read_catalog().values() for e in by_tag.values())
    return next((e for e in entries if e.url == url), None)


def entry_from_torchvision(member: Any, network: str | None = None) -> Weights:
    """Convert one member of a torchvision weights enum.

    Args:
        member: for example `torchvision.models.ResNet50_Weights.IMAGENET1K_V1`.
        network: name of our builder, if known.
    """
    meta, preset = member.meta, member.transforms()
    (dataset, metrics), *_ = meta.get("_metrics", {None: {}}).items()
    metrics = {name: value for name, value in metrics.items() if not math.isnan(value)}
    categories = meta.get("categories")
    mean, std = tuple(preset.mean), tuple(preset.std)
    if _has_transform_input(member):
        mean, std = (0.5,) * 3, (0.5,) * 3
    return Weights(
        url=member.url,
        network=network,
        tag=member.name,
        sha256=hash_in_name(member.url),
        file_size=meta.get("_file_size"),
        layout="torchvision",
        architecture=type(member).__name__.removesuffix("_Weights").lower(),
        num_classes=len(categories) if categories else None,
        in_channels=3,
        preprocessing=Preprocessing(
            crop_size=preset.crop_size[0],
            resize_size=preset.resize_size[0],
            interpolation=preset.interpolation.value,
            mean=mean,
            std=std,
        ),
        labels="imagenet1k" if categories and len(categories) == _IMAGENET_CLASSES else None,
        metrics=metrics,
        dataset=dataset,
        metrics_source=TORCHVISION_METRICS if metrics else None,
        license=meta.get("license", NOT_STATED),
        source=meta.get("recipe"),
    )


def _has_transform_input(member: Any) -> bool:
    """Return whether torchvision's network renormalizes images to a mean and std of 0.5.

    Networks with a `transform_input` option renormalize when they are built with weights.
    """
    classes = inspect.getmembers(sys.modules[type(member).__module__], inspect.isclass)
    bases = {base for _, c in classes for base in c.__mro__ if issubclass(base, nn.Module)}
    return any("transform_input" in inspect.signature(base).parameters for base in bases)


@cache
def _read_catalog() -> dict[str, dict[str, Weights]]:
    text = resources.files(__package__).joinpath("catalog.json").read_text()
    catalog: dict[str, dict[str, Weights]] = {}
    for network, entries in json.loads(text).items():
        for tag, facts in entries.items():
            facts["preprocessing"] = preprocessing_from(facts.get("preprocessing"))
            catalog.setdefault(network, {})[tag] = Weights(network=network, tag=tag, **facts)
    return catalog


@cache
def _read_labels(name: str) -> tuple[str, ...]:
    text = resources.files(__package__).joinpath(f"{name}.txt").read_text()
    return tuple(text.splitlines())
