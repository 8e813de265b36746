"""ConvMixer: patches of the image, mixed by convolutions alone (Trockman and Kolter, 2022)."""

from collections.abc import Callable
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.convmixer import ConvMixerLayer, conv_act_norm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DropoutOptions
from cnnarch.facts.builders import builder

__all__ = ["ConvMixer", "convmixer_768_32", "convmixer_1024_20_ks9_p14", "convmixer_1536_20"]


class ConvMixerRow(NamedTuple):
    """A row of Table 1; the width h and the depth are in the network's name."""

    width: int
    depth: int
    patch_size: int
    kernel_size: int
    act: Callable[[], nn.Module]


W_768 = ConvMixerRow(768, 32, 7, 7, nn.ReLU)
W_1024 = ConvMixerRow(1024, 20, 14, 9, nn.GELU)
W_1536 = ConvMixerRow(1536, 20, 7, 9, nn.GELU)


class ConvMixerOptions(DropoutOptions, total=False):
    """Options of the ConvMixers."""

    drop_path: float


class ConvMixer(ImageClassifier):
    """ConvMixer: a convolution that embeds patches, ConvMixer layers, pooled linear head.

    Each layer is a stage, and the stride of all stages is the patch size. Each convolution has a
    bias and is followed by an activation and BatchNorm, in this order.

    Args:
        width: number of channels in the maps, the paper's h.
        depth: number of layers.
        patch_size: side length of a patch, in pixels, the paper's p.
        kernel_size: side length of the depthwise kernels, in pixels, an odd number, the paper's k.
        act: creates an activation.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the depthwise branch of the last layer for an image in
            training, in [0, 1). The probability increases linearly from 0 in the first layer.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes)

    Raises:
        ValueError: a count is not a positive integer, `kernel_size` is even, or `dropout` or
            `drop_path` is out of range.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        patch_size: int,
        kernel_size: int,
        act: Callable[[], nn.Module] = nn.GELU,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("width", width, 1)
        check_integer("depth", depth, 1)
        check_integer("patch_size", patch_size, 1)
        check_integer("in_channels", in_channels, 1)
        stem = conv_act_norm(nn.Conv2d(in_channels, width, patch_size, patch_size), act)
        (rates,) = drop_path_rates(drop_path, (depth,))
        layers = [ConvMixerLayer(width, kernel_size, act=act, drop_path=rate) for rate in rates]
        super().__init__(
            stem,
            [Stage(layer) for layer in layers],
            ClassifierHead(width, num_classes, dropout=dropout),
            names=("stem", *(f"convmixer_layer_{i + 1}" for i in range(depth))),
            min_input_size=patch_size,
        )


@builder
def convmixer_768_32(
    *, weights: WeightsSource = None, **options: Unpack[ConvMixerOptions]
) -> ConvMixer:
    """ConvMixer-768/32: 32 layers of 768 channels, 7x7 kernels, patches of 7x7, ReLU."""
    return build("convmixer_768_32", weights, ConvMixer, *W_768, **options)


@builder
def convmixer_1024_20_ks9_p14(
    *, weights: WeightsSource = None, **options: Unpack[ConvMixerOptions]
) -> ConvMixer:
    """ConvMixer-1024/20: 20 layers of 1024 channels, 9x9 kernels, patches of 14x14."""
    return build("convmixer_1024_20_ks9_p14", weights, ConvMixer, *W_1024, **options)


@builder
def convmixer_1536_20(
    *, weights: WeightsSource = None, **options: Unpack[ConvMixerOptions]
) -> ConvMixer:
    """ConvMixer-1536/20: 20 layers of 1536 channels, 9x9 kernels, patches of 7x7."""
    return build("convmixer_1536_20", weights, ConvMixer, *W_1536, **options)
