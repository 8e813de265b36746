"""What is known of a checkpoint besides its tensors, and the catalog of those with a name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.transforms import v2

__all__ = ["NOT_STATED", "Preprocessing", "Weights", "find_by_url", "find_weights", "get_weights"]

NOT_STATED = "not stated"
"""Licence of weights whose publisher names none."""


@dataclass(frozen=True)
class Preprocessing:
    """How images become the input that a checkpoint was trained on.

    Args:
        crop_size: side in pixels of the square that the network sees.
        resize_size: the image's shorter side in pixels before the crop.
        interpolation: "bilinear" or "bicubic".
        mean: of each channel, in units where white is 1; it is subtracted.
        std: of each channel, in the same units; the difference is divided by it.
        antialias: whether shrinking filters first, as PIL does. Without it tensors and PIL
            images give different pixels.
    """

    crop_size: int
    resize_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    antialias: bool = True

    def transform(self) -> "v2.Transform":
        """A torchvision v2 transform of PIL images and of image tensors, (C, H, W) or batches.

        Both ways give the same pixels within 1/255. Float tensors are taken to be in [0, 1].
        Grey images are repeated for a network of colours, and colours made grey for one of grey.

        Raises:
            ValueError: `interpolation` is not one that torchvision has.

        >>> import torch
        >>> preprocessing = Preprocessing(224, 256)
        >>> preprocessing.transform()(torch.zeros(3, 300, 400, dtype=torch.uint8)).shape
        torch.Size([3, 224, 224])
        """
        from cnnarch.weights.transforms import make_transform

        return make_transform(self)

    def crop(self) -> "v2.Transform":
        """The first part of `transform`: the pixels that the network sees, in 8 bits."""
        from cnnarch.weights.transforms import make_crop

        return make_crop(self)

    def scale(self, pixels: "Tensor") -> "Tensor":
        """The second part of `transform`, also for batches: what the network reads.

        Args:
            pixels: on the CPU, as `crop` gives them.

        Shape:
            (..., C, H, W), uint8 -> the same, float32
        """
        from cnnarch.weights.transforms import scale_pixels

        return scale_pixels(self, pixels)


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


def preprocessing_from(facts: Mapping[str, Any] | None) -> Preprocessing | None:
    """A `Preprocessing` from its fields as JSON has them."""
    if facts is None:
        return None
    lists = {key: tuple(facts[key]) for key in ("mean", "std") if key in facts}
    return Preprocessing(**{**facts, **lists})


@cache
def _labels(name: str) -> tuple[str, ...]:
    text = resources.files(__package__).joinpath(f"{name}.txt").read_text()
    return tuple(text.splitlines())
