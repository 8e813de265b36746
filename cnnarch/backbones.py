"""Every network as a backbone: feature maps for detection, segmentation and the like."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.trunk import FeatureInfo, Trunk
from cnnarch.dilation import dilate
from cnnarch.registry import get_model

if TYPE_CHECKING:
    from cnnarch.contract.build import WeightsSource

__all__ = ["Backbone", "get_backbone"]


class Backbone(Trunk):
    """The stem and stages of a network up to the last map asked for; its forward gives the maps.

    It shares layers with the network that it is made from, and their names: a classifier's
    "stages.2.0.conv.weight" is the backbone's too. What `cnnarch.freeze` holds in the network it
    holds here. `names`, `channels` and `strides` describe the maps; `preprocessing` is the
    network's.

    Args:
        network: what to take the stem and the stages from.
        stages: rows of `network.feature_info` by index (negative ones count from the end) or
            name, in the order wanted; None means the last row of each stride.

    Shape:
        (N, in_channels, H, W) -> an OrderedDict from row name to (N, C, h, w)

    Raises:
        TypeError: `network` is not a network of cnnarch, or `stages` is not a list.
        ValueError: there is no such row, one is asked for twice, or none is.
    """

    def __init__(self, network: ImageClassifier, stages: Sequence[int | str] | None = None) -> None:
        if not isinstance(network, ImageClassifier):
            kind = type(network).__name__
            raise TypeError(f"a backbone is made from a network of cnnarch, got {kind}")
        info = network.feature_info
        wanted = _last_of_each_stride(info) if stages is None else stages
        indices = network.stage_indices(wanted)
        if not indices or len(set(indices)) < len(indices):
            raise ValueError(f"stages must name at least one row, and each once, got {stages!r}")
        last = max(indices)
        super().__init__(
            network.stem,
            list(network.stages)[:last],
            names=network.stage_names[: last + 1],
            min_input_size=network.min_input_size,
            fixed_input_size=network.fixed_input_size,
        )
        self.names = tuple(info[i].name for i in indices)
        self.preprocessing = network.preprocessing
        self.feature_info = info[: last + 1]
        self.frozen = network.frozen & {path for path, _ in self.named_modules()}
        self.training = network.training

    @property
    def channels(self) -> tuple[int, ...]:
        """Width of each map."""
        return tuple(self.feature_info[self.stage_index(name)].channels for name in self.names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map, in pixels of the image."""
        return tuple(self.feature_info[self.stage_index(name)].stride for name in self.names)

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """The maps by row name, in the order asked for."""
        return OrderedDict(zip(self.names, self.forward_stages(x, self.names), strict=True))


def get_backbone(
    name: str,
    *,
    weights: "WeightsSource" = None,
    in_channels: int | None = None,
    stages: Sequence[int | str] | None = None,
    output_stride: int | None = None,
    **options: Any,
) -> Backbone:
    """Build a network's backbone.

    Args:
        name: one of `cnnarch.list_models()`.
        weights: as every builder takes them.
        in_channels: channels of the input image; None means the network's own.
        stages: rows by index or name, in the order wanted; None means the last of each stride.
        output_stride: 8, 16 or 32: deeper stages keep this stride and dilate their kernels, with
            the same weights; None leaves the network as it is.
        **options: other options of the builder, such as `small_images`.

    Raises:
        ValueError: there is no such network or row, or it cannot have that stride.
        TypeError: the builder has no such option.

    >>> import torch
    >>> backbone = get_backbone("resnet18", stages=["conv3_x", "conv5_x"])
    >>> backbone.channels, backbone.strides
    ((128, 512), (8, 32))
    >>> {name: tuple(m.shape) for name, m in backbone(torch.zeros(1, 3, 64, 64)).items()}
    {'conv3_x': (1, 128, 8, 8), 'conv5_x': (1, 512, 2, 2)}
    """
    if in_channels is not None:
        options["in_channels"] = in_channels
    model = get_model(name, weights=weights, **options)
    if output_stride is not None:
        dilate(model, output_stride)
    return Backbone(model, stages)


def _last_of_each_stride(info: Sequence[FeatureInfo]) -> list[int | str]:
    last = {row.stride: row.name for row in info}
    return list(last.values())
