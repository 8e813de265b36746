"""Backbones that return feature maps for detection, segmentation and other tasks."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.trunk import Trunk
from cnnarch.dilation import dilate
from cnnarch.registry import get_model

if TYPE_CHECKING:
    from cnnarch.contract.build import WeightsSource

__all__ = ["Backbone", "get_backbone"]


class Backbone(Trunk):
    """A network's stem and stages up to the last requested map; returns the requested maps.

    A backbone shares its layers with the network and keeps their names, for example
    "stages.2.0.conv.weight". Stages that `cnnarch.freeze` has frozen in the network are also
    frozen in the backbone. `names`, `channels` and `strides` describe the maps, and `preprocessing`
    is the network's preprocessing.

    Args:
        network: the network that provides the stem and the stages.
        stages: rows of `network.feature_info` by index or name, in output order.
            Negative indices count from the end. None uses the last row for each stride.

    Shape:
        (N, in_channels, H, W) -> an OrderedDict from row name to (N, C, h, w)

    Raises:
        TypeError: `network` is not a cnnarch network, or `stages` is not a list.
        ValueError: a row does not exist or is named twice, or `stages` is empty.
    """

    def __init__(self, network: ImageClassifier, stages: Sequence[int | str] | None = None) -> None:
        if not isinstance(network, ImageClassifier):
            kind = type(network).__name__
            raise TypeError(f"network must be a cnnarch network, got {kind}")
        info = network.feature_info
        if stages is None:  # the last row for each stride
            stages = list({row.stride: row.name for row in info}.values())
        indices = network.stage_indices(stages)
        if not indices or len(set(indices)) < len(indices):
            raise ValueError(f"stages must name one or more rows, each once, got {stages!r}")
        last = max(indices)
        super().__init__(
            network.stem,
            list(network.stages)[:last],
            names=network.stage_names[: last + 1],
            min_input_size=network.min_input_size,
            fixed_input_size=network.fixed_input_size,
        )
        self.builder, self.given_options = network.builder, network.given_options
        self.conversions = network.conversions
        self.options = {k: v for k, v in network.options.items() if k != "num_classes"}
        self.names = tuple(info[i].name for i in indices)
        self.preprocessing = network.preprocessing
        self.training = network.training

    @property
    def channels(self) -> tuple[int, ...]:
        """Number of channels of each map."""
        info = self.feature_info
        return tuple(info[self.stage_index(name)].channels for name in self.names)

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each map, in image pixels."""
        info = self.feature_info
        return tuple(info[self.stage_index(name)].stride for name in self.names)

    def forward(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """Return the maps by row name, in the requested order."""
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
        weights: weights source, as accepted by every builder.
        in_channels: number of channels of the input image. None uses the network's default.
        stages: rows by index or name, in output order. None uses the last row for each stride.
        output_stride: 8, 16 or 32. Deeper stages keep this stride and dilate their kernels, with
            unchanged weights. None keeps the original strides.
        **options: other options of the builder, such as `small_images`.

    Raises:
        ValueError: the network or a row does not exist, or the stride is not supported.
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
        if model.conversions and model.feature_info[-1].stride < output_stride:
            stride = model.feature_info[-1].stride
            raise ValueError(
                f"got output_stride={output_stride}, but the checkpoint's network has {stride}"
            )
        dilate(model, output_stride)
    return Backbone(model, stages)
