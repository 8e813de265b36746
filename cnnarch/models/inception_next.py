"""InceptionNeXt: ConvNeXt with large kernels on few channels (Yu et al., 2023)."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inception_next import InceptionNeXtBlock
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "InceptionNeXt",
    "inception_next_atto",
    "inception_next_base",
    "inception_next_small",
    "inception_next_tiny",
]

NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
MLP_RATIOS = (4, 4, 4, 3)
HEAD_RATIO = 3
DOWNSAMPLING = 4 * 2 * 2 * 2  # the stem's patches, and three convolutions with stride 2


class InceptionNeXtRow(NamedTuple):
    """A column of Table 3: "Embed. Dim.", "# Block", "Band kernel size", "Conv. group ratio"."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    band_kernel: int = 11
    ratio: float = 1 / 8


ATTO = InceptionNeXtRow((40, 80, 160, 320), (2, 2, 6, 2), 9, 1 / 4)
TINY = InceptionNeXtRow((96, 192, 384, 768), (3, 3, 9, 3))
SMALL = InceptionNeXtRow((96, 192, 384, 768), (3, 3, 27, 3))
BASE = InceptionNeXtRow((128, 256, 512, 1024), (3, 3, 27, 3))


class InceptionNeXtOptions(CommonOptions, total=False):
    """Options of the InceptionNeXts."""

    drop_path: float


class InceptionNeXt(ImageClassifier):
    """InceptionNeXt: a stem of 4x4 patches, four stages of `InceptionNeXtBlock`, pool, MLP.

    Each stage after the first starts with BatchNorm and a 2x2 convolution with stride 2. The MLP
    after the pool has a hidden layer with GELU and LayerNorm. Weights are drawn from N(0, 0.02^2),
    as in the authors' code.

    Args:
        channels: number of channels in each stage.
        depths: number of blocks in each stage.
        band_kernel: length of the horizontal and vertical kernels, in pixels; must be odd.
        ratio: share of the channels that each of the three kernels filters, in (0, 1/3].
        num_classes: number of logits; 0 returns the output of the hidden layer.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing an output of the hidden layer, in [0, 1).
        drop_path: probability of dropping the branch of the last block for an image in training,
            in [0, 1). The probability increases linearly from 0 in the first block.
        small_images: move the stem's kernel by one pixel instead of four; 32x32 images give 4x4
            maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `channels` or `depths` does not have four entries, a stage is empty, or
            `band_kernel`, `ratio`, `dropout` or `drop_path` is out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        band_kernel: int,
        ratio: float,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_length("channels", channels, 4)
        check_length("depths", depths, 4)
        for depth in depths:
            check_integer("depth of a stage", depth, 1)
        stem = _stem(in_channels, channels[0], small_images)
        stages: list[Stage] = []
        rows = zip(channels, drop_path_rates(drop_path, depths), strict=True)
        for i, (width, rates) in enumerate(rows):
            block = partial(
                InceptionNeXtBlock,
                width,
                expansion=MLP_RATIOS[i],
                band_kernel=band_kernel,
                ratio=ratio,
            )
            opening = {"downsample": _downsample(channels[i - 1], width)} if i else {}
            stages.append(Stage(*[block(drop_path=rate) for rate in rates], **opening))
        features = HEAD_RATIO * channels[-1]
        head = ClassifierHead(
            features,
            num_classes,
            hidden=_hidden(channels[-1], features),
            dropout=dropout,
            make_classifier=_linear,
        )
        min_size = DOWNSAMPLING // 4 if small_images else DOWNSAMPLING
        super().__init__(stem, stages, head, names=NAMES, min_input_size=min_size)


def _stem(in_channels: int, channels: int, small_images: bool) -> ConvNormAct:
    padding: Padding | int = "same" if small_images else 0
    stride = 1 if small_images else 4
    stem = ConvNormAct(in_channels, channels, 4, stride, padding=padding, bias=True, act=None)
    normal_(stem.conv, 0.02)
    return stem


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = normal_(nn.Conv2d(in_channels, out_channels, 2, 2), 0.02)
    return nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(in_channels), conv=conv))


def _hidden(inputs: int, features: int) -> nn.Sequential:
    norm = nn.LayerNorm(features, eps=1e-6)
    return nn.Sequential(OrderedDict(fc=_linear(inputs, features), act=nn.GELU(), norm=norm))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return normal_(nn.Linear(inputs, outputs), 0.02)


@builder
def inception_next_atto(
    *, weights: WeightsSource = None, **options: Unpack[InceptionNeXtOptions]
) -> InceptionNeXt:
    """InceptionNeXt-A: 40 to 320 channels, 12 blocks."""
    return build("inception_next_atto", weights, InceptionNeXt, *ATTO, **options)


@builder
def inception_next_tiny(
    *, weights: WeightsSource = None, **options: Unpack[InceptionNeXtOptions]
) -> InceptionNeXt:
    """InceptionNeXt-T: 96 to 768 channels, 18 blocks."""
    return build("inception_next_tiny", weights, InceptionNeXt, *TINY, **options)


@builder
def inception_next_small(
    *, weights: WeightsSource = None, **options: Unpack[InceptionNeXtOptions]
) -> InceptionNeXt:
    """InceptionNeXt-S: 96 to 768 channels, 36 blocks."""
    return build("inception_next_small", weights, InceptionNeXt, *SMALL, **options)


@builder
def inception_next_base(
    *, weights: WeightsSource = None, **options: Unpack[InceptionNeXtOptions]
) -> InceptionNeXt:
    """InceptionNeXt-B: 128 to 1024 channels, 36 blocks."""
    return build("inception_next_base", weights, InceptionNeXt, *BASE, **options)
