"""What torchvision and timm say of their checkpoints, in our words."""

import inspect
import math
import sys
from typing import Any

from torch import nn

from cnnarch.preprocessing import Preprocessing
from cnnarch.weights.entry import NOT_STATED, Weights
from cnnarch.weights.urls import hash_in_name

__all__ = ["from_torchvision", "timm_preprocessing"]

_IMAGENET_CLASSES = 1000


def from_torchvision(member: Any, network: str | None = None) -> Weights:
    """The entry of one member of a torchvision weights enum.

    Args:
        member: such as `torchvision.models.ResNet50_Weights.IMAGENET1K_V1`.
        network: our builder, if it is known.
    """
    meta, preset = member.meta, member.transforms()
    (dataset, metrics), *_ = meta.get("_metrics", {None: {}}).items()
    categories = meta.get("categories")
    architecture = type(member).__name__.removesuffix("_Weights").lower()
    mean, std = tuple(preset.mean), tuple(preset.std)
    if _transforms_input(member):
        mean, std = (0.5,) * 3, (0.5,) * 3
    return Weights(
        url=member.url,
        network=network,
        tag=member.name,
        sha256=hash_in_name(member.url),
        file_size=meta.get("_file_size"),
        layout="torchvision",
        architecture=architecture,
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
        metrics={name: value for name, value in metrics.items() if not math.isnan(value)},
        dataset=dataset,
        license=meta.get("license", NOT_STATED),
        source=meta.get("recipe"),
    )


def _transforms_input(member: Any) -> bool:
    """Whether torchvision's network turns (0.485, ...) into (0.5, 0.5, 0.5) itself.

    Those with the option do so whenever they are built with weights.
    """
    classes = inspect.getmembers(sys.modules[type(member).__module__], inspect.isclass)
    bases = {base for _, c in classes for base in c.__mro__ if issubclass(base, nn.Module)}
    return any("transform_input" in inspect.signature(base).parameters for base in bases)


def timm_preprocessing(facts: dict[str, Any]) -> Preprocessing | None:
    """From timm's words; None where its crop is not the centre of a square."""
    side = facts["input_size"][-1]
    if facts.get("crop_mode", "center") != "center" or facts["input_size"][-2] != side:
        return None
    return Preprocessing(
        crop_size=side,
        resize_size=math.floor(side / facts["crop_pct"]),
        interpolation=facts["interpolation"],
        mean=tuple(facts["mean"]),
        std=tuple(facts["std"]),
    )
