"""ConvNeXt V2: ConvNeXt for pretraining on masked images (Woo et al., 2023)."""

from collections.abc import Sequence
from typing import Unpack

from cnnarch.blocks.convnext_v2 import ConvNeXtV2Block
from cnnarch.contract.build import WeightsSource, build
from cnnarch.facts.builders import builder
from cnnarch.models import convnext
from cnnarch.models.convnext import ConvNeXt, ConvNeXtOptions, ConvNeXtRow

__all__ = [
    "ConvNeXtV2",
    "convnextv2_atto",
    "convnextv2_base",
    "convnextv2_femto",
    "convnextv2_huge",
    "convnextv2_large",
    "convnextv2_nano",
    "convnextv2_pico",
    "convnextv2_tiny",
]

HUGE = ConvNeXtRow((352, 704, 1408, 2816), (3, 3, 27, 3))  # the others have ConvNeXt's rows


class ConvNeXtV2(ConvNeXt):
    """ConvNeXt whose blocks have global response normalization in place of the layer scale.

    Args:
        channels: number of channels in each stage.
        depths: number of blocks in each stage.
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
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        small_images: bool = False,
    ) -> None:
        super().__init__(
            channels,
            depths,
            ConvNeXtV2Block,
            num_classes=num_classes,
            in_channels=in_channels,
            dropout=dropout,
            drop_path=drop_path,
            small_images=small_images,
        )


@builder
def convnextv2_atto(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-A: 40 to 320 channels, 12 blocks."""
    return build("convnextv2_atto", weights, ConvNeXtV2, *convnext.ATTO, **options)


@builder
def convnextv2_femto(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-F: 48 to 384 channels, 12 blocks."""
    return build("convnextv2_femto", weights, ConvNeXtV2, *convnext.FEMTO, **options)


@builder
def convnextv2_pico(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-P: 64 to 512 channels, 12 blocks."""
    return build("convnextv2_pico", weights, ConvNeXtV2, *convnext.PICO, **options)


@builder
def convnextv2_nano(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-N: 80 to 640 channels, 14 blocks."""
    return build("convnextv2_nano", weights, ConvNeXtV2, *convnext.NANO, **options)


@builder
def convnextv2_tiny(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-T: 96 to 768 channels, 18 blocks."""
    return build("convnextv2_tiny", weights, ConvNeXtV2, *convnext.TINY, **options)


@builder
def convnextv2_base(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-B: 128 to 1024 channels, 36 blocks."""
    return build("convnextv2_base", weights, ConvNeXtV2, *convnext.BASE, **options)


@builder
def convnextv2_large(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-L: 192 to 1536 channels, 36 blocks."""
    return build("convnextv2_large", weights, ConvNeXtV2, *convnext.LARGE, **options)


@builder
def convnextv2_huge(
    *, weights: WeightsSource = None, **options: Unpack[ConvNeXtOptions]
) -> ConvNeXtV2:
    """ConvNeXt V2-H: 352 to 2816 channels, 36 blocks."""
    return build("convnextv2_huge", weights, ConvNeXtV2, *HUGE, **options)
