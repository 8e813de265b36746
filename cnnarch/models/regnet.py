"""RegNet: widths and depths from a quantized linear function (Radosavovic et al., 2020)."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct, remove_stride
from cnnarch.blocks.inverted_residual import round_channels
from cnnarch.blocks.regnet import XBlock, quantized_linear_widths
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder

__all__ = [
    "RegNet",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_4gf",
    "regnet_x_6_4gf",
    "regnet_x_8gf",
    "regnet_x_12gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_200mf",
    "regnet_x_400mf",
    "regnet_x_400mf_tv",
    "regnet_x_600mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_4gf",
    "regnet_y_6_4gf",
    "regnet_y_8gf",
    "regnet_y_8gf_tv",
    "regnet_y_12gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_200mf",
    "regnet_y_400mf",
    "regnet_y_600mf",
    "regnet_y_800mf",
    "regnet_y_800mf_tv",
]

STEM_CHANNELS = 32
SE_RATIO = 0.25  # of the Y networks


class RegNetRow(NamedTuple):
    """A row of Figs. 15 and 16: the depth d, the widths' three parameters, and the group width g.

    The paper rounds w_a and w_m; the values here are those of the authors' released models.
    """

    d: int
    w_0: int
    w_a: float
    w_m: float
    g: int


X_200MF = RegNetRow(13, 24, 36.44, 2.49, 8)
X_400MF = RegNetRow(22, 24, 24.48, 2.54, 16)
X_600MF = RegNetRow(16, 48, 36.97, 2.24, 24)
X_800MF = RegNetRow(16, 56, 35.73, 2.28, 16)
X_1_6GF = RegNetRow(18, 80, 34.01, 2.25, 24)
X_3_2GF = RegNetRow(25, 88, 26.31, 2.25, 48)
X_4GF = RegNetRow(23, 96, 38.65, 2.43, 40)
X_6_4GF = RegNetRow(17, 184, 60.83, 2.07, 56)
X_8GF = RegNetRow(23, 80, 49.56, 2.88, 120)
X_12GF = RegNetRow(19, 168, 73.36, 2.37, 112)
X_16GF = RegNetRow(22, 216, 55.59, 2.1, 128)
X_32GF = RegNetRow(23, 320, 69.86, 2.0, 168)
Y_200MF = RegNetRow(13, 24, 36.44, 2.49, 8)
Y_400MF = RegNetRow(16, 48, 27.89, 2.09, 8)
Y_600MF = RegNetRow(15, 48, 32.54, 2.32, 16)
Y_800MF = RegNetRow(14, 56, 38.84, 2.4, 16)
Y_1_6GF = RegNetRow(27, 48, 20.71, 2.65, 24)
Y_3_2GF = RegNetRow(21, 80, 42.63, 2.66, 24)
Y_4GF = RegNetRow(22, 96, 31.41, 2.24, 64)
Y_6_4GF = RegNetRow(25, 112, 33.22, 2.27, 72)
Y_8GF = RegNetRow(17, 192, 76.82, 2.19, 56)
Y_12GF = RegNetRow(19, 168, 73.36, 2.37, 112)
Y_16GF = RegNetRow(18, 200, 106.23, 2.48, 112)
Y_32GF = RegNetRow(20, 232, 115.89, 2.53, 232)
Y_128GF = RegNetRow(27, 456, 160.83, 2.52, 264)


def nearest_multiple(width: int, group_width: int) -> int:
    """Return the multiple of the group width that is closest to a width."""
    return round(width / group_width) * group_width


def torchvision_multiple(width: int, group_width: int) -> int:
    """Return the closest multiple, or the next one if it is more than 10% smaller."""
    return round_channels(width, divisor=group_width)


class RegNet(ResidualNetwork):
    """RegNet: a 3x3 stem, four stages of X or Y blocks, pooled linear head.

    Args:
        row: the network's depth, width parameters and group width.
        squeeze_ratio: width of a block's squeeze divided by its number of input channels, for
            RegNetY; None, for RegNetX, omits squeeze-and-excitation.
        multiple: rounds a stage's width to a multiple of its group width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use stride 1 in the stem and the first stage; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: a number in `row` is out of range.
    """

    def __init__(
        self,
        row: RegNetRow,
        squeeze_ratio: float | None = None,
        multiple: Callable[[int, int], int] = nearest_multiple,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        check_integer("g", row.g, 1)
        stages = Counter(quantized_linear_widths(row.d, row.w_0, row.w_a, row.w_m))
        super().__init__(
            ConvNormAct(in_channels, STEM_CHANNELS, 3, 1 if small_images else 2),
            partial(grouped_block, group_width=row.g, squeeze_ratio=squeeze_ratio),
            [multiple(width, min(row.g, width)) for width in stages],
            [*stages.values()],
            names=("stem", *(f"stage{i}" for i in range(1, 1 + len(stages)))),
            first_stride=2,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )
        if small_images:
            remove_stride(self.get_submodule("stages.0.0"))


def grouped_block(
    in_channels: int, channels: int, stride: int, *, group_width: int, squeeze_ratio: float | None
) -> XBlock:
    """Return a block with one group if it has fewer channels than a group."""
    width = min(group_width, channels)
    return XBlock(in_channels, channels, stride, group_width=width, squeeze_ratio=squeeze_ratio)


@builder
def regnet_x_200mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-200MF: 13 blocks, groups of 8 channels."""
    return build("regnet_x_200mf", weights, RegNet, X_200MF, **options)


@builder
def regnet_x_400mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-400MF: 22 blocks, groups of 16 channels."""
    return build("regnet_x_400mf", weights, RegNet, X_400MF, **options)


@builder
def regnet_x_400mf_tv(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> RegNet:
    """RegNetX-400MF with torchvision's widths."""
    return build(
        "regnet_x_400mf_tv", weights, RegNet, X_400MF, None, torchvision_multiple, **options
    )


@builder
def regnet_x_600mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-600MF: 16 blocks, groups of 24 channels."""
    return build("regnet_x_600mf", weights, RegNet, X_600MF, **options)


@builder
def regnet_x_800mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-800MF: 16 blocks, groups of 16 channels."""
    return build("regnet_x_800mf", weights, RegNet, X_800MF, **options)


@builder
def regnet_x_1_6gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-1.6GF: 18 blocks, groups of 24 channels."""
    return build("regnet_x_1_6gf", weights, RegNet, X_1_6GF, **options)


@builder
def regnet_x_3_2gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-3.2GF: 25 blocks, groups of 48 channels."""
    return build("regnet_x_3_2gf", weights, RegNet, X_3_2GF, **options)


@builder
def regnet_x_4gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-4GF: 23 blocks, groups of 40 channels."""
    return build("regnet_x_4gf", weights, RegNet, X_4GF, **options)


@builder
def regnet_x_6_4gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-6.4GF: 17 blocks, groups of 56 channels."""
    return build("regnet_x_6_4gf", weights, RegNet, X_6_4GF, **options)


@builder
def regnet_x_8gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-8GF: 23 blocks, groups of 120 channels."""
    return build("regnet_x_8gf", weights, RegNet, X_8GF, **options)


@builder
def regnet_x_12gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-12GF: 19 blocks, groups of 112 channels."""
    return build("regnet_x_12gf", weights, RegNet, X_12GF, **options)


@builder
def regnet_x_16gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-16GF: 22 blocks, groups of 128 channels."""
    return build("regnet_x_16gf", weights, RegNet, X_16GF, **options)


@builder
def regnet_x_32gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetX-32GF: 23 blocks, groups of 168 channels."""
    return build("regnet_x_32gf", weights, RegNet, X_32GF, **options)


@builder
def regnet_y_200mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-200MF: 13 blocks, groups of 8 channels."""
    return build("regnet_y_200mf", weights, RegNet, Y_200MF, SE_RATIO, **options)


@builder
def regnet_y_400mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-400MF: 16 blocks, groups of 8 channels."""
    return build("regnet_y_400mf", weights, RegNet, Y_400MF, SE_RATIO, **options)


@builder
def regnet_y_600mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-600MF: 15 blocks, groups of 16 channels."""
    return build("regnet_y_600mf", weights, RegNet, Y_600MF, SE_RATIO, **options)


@builder
def regnet_y_800mf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-800MF: 14 blocks, groups of 16 channels."""
    return build("regnet_y_800mf", weights, RegNet, Y_800MF, SE_RATIO, **options)


@builder
def regnet_y_800mf_tv(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> RegNet:
    """RegNetY-800MF with torchvision's widths."""
    return build(
        "regnet_y_800mf_tv", weights, RegNet, Y_800MF, SE_RATIO, torchvision_multiple, **options
    )


@builder
def regnet_y_1_6gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-1.6GF: 27 blocks, groups of 24 channels."""
    return build("regnet_y_1_6gf", weights, RegNet, Y_1_6GF, SE_RATIO, **options)


@builder
def regnet_y_3_2gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-3.2GF: 21 blocks, groups of 24 channels."""
    return build("regnet_y_3_2gf", weights, RegNet, Y_3_2GF, SE_RATIO, **options)


@builder
def regnet_y_4gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-4GF: 22 blocks, groups of 64 channels."""
    return build("regnet_y_4gf", weights, RegNet, Y_4GF, SE_RATIO, **options)


@builder
def regnet_y_6_4gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-6.4GF: 25 blocks, groups of 72 channels."""
    return build("regnet_y_6_4gf", weights, RegNet, Y_6_4GF, SE_RATIO, **options)


@builder
def regnet_y_8gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-8GF: 17 blocks, groups of 56 channels."""
    return build("regnet_y_8gf", weights, RegNet, Y_8GF, SE_RATIO, **options)


@builder
def regnet_y_8gf_tv(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-8GF with torchvision's widths."""
    return build(
        "regnet_y_8gf_tv", weights, RegNet, Y_8GF, SE_RATIO, torchvision_multiple, **options
    )


@builder
def regnet_y_12gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-12GF: 19 blocks, groups of 112 channels."""
    return build("regnet_y_12gf", weights, RegNet, Y_12GF, SE_RATIO, **options)


@builder
def regnet_y_16gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-16GF: 18 blocks, groups of 112 channels."""
    return build("regnet_y_16gf", weights, RegNet, Y_16GF, SE_RATIO, **options)


@builder
def regnet_y_32gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-32GF: 20 blocks, groups of 232 channels."""
    return build("regnet_y_32gf", weights, RegNet, Y_32GF, SE_RATIO, **options)


@builder
def regnet_y_128gf(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> RegNet:
    """RegNetY-128GF: 27 blocks, groups of 264 channels."""
    return build("regnet_y_128gf", weights, RegNet, Y_128GF, SE_RATIO, **options)
