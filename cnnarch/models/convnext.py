"""ConvNeXt: a ResNet modernized step by step toward a Transformer (Liu et al., 2022)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.convnext import ConvNeXtBlock
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.mixer import LayerNorm2d
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "ConvNeXt",
    "convnext_atto",
    "convnext_base",
    "convnext_femto",
    "convnext_large",
    "convnext_nano",
    "convnext_pico",
    "convnext_small",
    "convnext_tiny",
    "convnext_xlarge",
]

NAMES = ("stem", "res2", "res3", "res4", "res5")
DOWNSAMPLING = 4 * 2 * 2 * 2  # the stem's patches, and three convolutions with stride 2


class ConvNeXtRow(NamedTuple):
    """A variant of section 3: its numbers of channels C and of blocks B in each stage."""

    channels: tuple[int, ...]
    depths: tuple[int, ...]


ATTO = ConvNeXtRow((40, 80, 160, 320), (2, 2, 6, 2))  # timm's, like the next three
FEMTO = ConvNeXtRow((48, 96, 192, 384), (2, 2, 6, 2))
PICO = ConvNeXtRow((64, 128, 256, 512), (2, 2, 6, 2))
NANO = ConvNeXtRow((80, 160, 320, 640), (2, 2, 8, 2))
TINY = ConvNeXtRow((96, 192, 384, 768), (3, 3, 9, 3))
SMALL = ConvNeXtRow((96, 192, 384, 768), (3, 3, 27, 3))
BASE = ConvNeXtRow((128, 256, 512, 1024), (3, 3, 27, 3))
LARGE = ConvNeXtRow((192, 384, 768, 1536), (3, 3, 27, 3))
XLARGE = ConvNeXtRow((256, 512, 1024, 2048), (3, 3, 27, 3))


class ConvNeXtOptions(CommonOptions, total=False):
    """Options of the ConvNeXts."""

    drop_path: float


class ConvNeXt(ImageClassifier):
    """ConvNeXt: a stem of 4x4 patches, four stages of blocks, pooled linear head.

    Each stage after the first starts with a LayerNorm and a 2x2 convolution with stride 2. The
    last LayerNorm follows the pool. Weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels in each stage.
        depths: number of blocks in each stage.
        block: creates a block from its number of channels and its `drop_path`.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the branch of the last block for an image in training,
            in [0, 1). The probability increases linearly from 0 in the first block.
        small_images: move the stem's kernel by one pixel instead of four; 32x32 images give 4x4
            maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `channels` or `depths` does not have four entries, a stage is empty, or
            `dropout` or `drop_path` is out of range.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        block: Callable[..., nn.Module] = ConvNeXtBlock,
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
        for i, rates in enumerate(drop_path_rates(drop_path, depths)):
            width = channels[i]
            blocks = [block(width, drop_path=rate) for rate in rates]
            opening = {"downsample": _downsample(channels[i - 1], width)} if i else {}
            stages.append(Stage(*blocks, **opening))
        head = ClassifierHead(
            channels[-1],
            num_classes,
            hidden=nn.LayerNorm(channels[-1], eps=1e-6),
            dropout=dropout,
            make_classifier=_classifier,
        )
        min_size = DOWNSAMPLING // 4 if small_images else DOWNSAMPLING
        super().__init__(stem, stages, head, names=NAMES, min_input_size=min_size)


def _stem(in_channels: int, channels: int, small_images: bool) -> ConvNormAct:
    padding: Padding | int = "same" if small_images else 0
    stem = ConvNormAct(
        in_channels,
        channels,
        4,
        1 if small_images else 4,
        padding=padding,
        bias=True,
        norm=LayerNorm2d,
        act=None,
    )
    normal_(stem.conv, 0.02)
    return stem


def _downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    downsample = nn.Sequential()
    downsample.norm = LayerNorm2d(in_channels)
    downsample.conv = normal_(nn.Conv2d(in_channels, out_channels, 2, 2), 0.02)
    return downsample


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    return normal_(nn.Linear(num_features, num_classes), 0.02)


@builder
def convnext_atto(*, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]) -> ConvNeXt:
    """ConvNeXt Atto: 40 to 320 channels, 12 blocks."""
    return build("convnext_atto", weights, ConvNeXt, *ATTO, **options)


@builder
def convnext_femto(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXt:
    """ConvNeXt Femto: 48 to 384 channels, 12 blocks."""
    return build("convnext_femto", weights, ConvNeXt, *FEMTO, **options)


@builder
def convnext_pico(*, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]) -> ConvNeXt:
    """ConvNeXt Pico: 64 to 512 channels, 12 blocks."""
    return build("convnext_pico", weights, ConvNeXt, *PICO, **options)


@builder
def convnext_nano(*, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]) -> ConvNeXt:
    """ConvNeXt Nano: 80 to 640 channels, 14 blocks."""
    return build("convnext_nano", weights, ConvNeXt, *NANO, **options)


@builder
def convnext_tiny(*, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]) -> ConvNeXt:
    """ConvNeXt-T: 96 to 768 channels, 18 blocks."""
    return build("convnext_tiny", weights, ConvNeXt, *TINY, **options)


@builder
def convnext_small(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXt:
    """ConvNeXt-S: 96 to 768 channels, 36 blocks."""
    return build("convnext_small", weights, ConvNeXt, *SMALL, **options)


@builder
def convnext_base(*, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]) -> ConvNeXt:
    """ConvNeXt-B: 128 to 1024 channels, 36 blocks."""
    return build("convnext_base", weights, ConvNeXt, *BASE, **options)


@builder
def convnext_large(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXt:
    """ConvNeXt-L: 192 to 1536 channels, 36 blocks."""
    return build("convnext_large", weights, ConvNeXt, *LARGE, **options)


@builder
def convnext_xlarge(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXt:
    """ConvNeXt-XL: 256 to 2048 channels, 36 blocks."""
    return build("convnext_xlarge", weights, ConvNeXt, *XLARGE, **options)
