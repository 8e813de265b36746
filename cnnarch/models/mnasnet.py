"""MnasNet: a network searched for accuracy and for latency on a phone (Tan et al., 2018)."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_number, check_positive
from cnnarch.blocks.conv import ConvNormAct, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inverted_residual import InvertedResidual, round_channels, squeeze_input
from cnnarch.blocks.inverted_residual_stages import inverted_residual_stages
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "MnasNet",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mnasnet_a1",
    "mnasnet_small",
]


class MnasRow(NamedTuple):
    """A row of Fig. 7, such as "MBConv3 (k5x5), SE"; only the first layer uses the stride."""

    expansion: int
    kernel_size: int
    channels: int
    layers: int
    stride: int
    se: bool = False


class MnasTable(NamedTuple):
    """The number of channels in the stem, and the rows that follow it."""

    stem: int
    rows: Mapping[str, MnasRow]

    def scaled(self, width: float) -> "MnasTable":
        """Return the variant with every number of channels multiplied by `width`."""
        rows = {
            name: row._replace(channels=round_channels(row.channels, width))
            for name, row in self.rows.items()
        }
        return MnasTable(round_channels(self.stem, width), rows)


A1 = MnasTable(  # Fig. 7(a)
    32,
    {
        "sepconv": MnasRow(1, 3, 16, 1, 1),
        "mbconv1": MnasRow(6, 3, 24, 2, 2),
        "mbconv2": MnasRow(3, 5, 40, 3, 2, se=True),
        "mbconv3": MnasRow(6, 3, 80, 4, 2),
        "mbconv4": MnasRow(6, 3, 112, 2, 1, se=True),
        "mbconv5": MnasRow(6, 5, 160, 3, 2, se=True),
        "mbconv6": MnasRow(6, 3, 320, 1, 1),
    },
)
B1 = MnasTable(  # from a search space without squeeze-and-excitation
    32,
    {
        "sepconv": MnasRow(1, 3, 16, 1, 1),
        "mbconv1": MnasRow(3, 3, 24, 3, 2),
        "mbconv2": MnasRow(3, 5, 40, 3, 2),
        "mbconv3": MnasRow(6, 5, 80, 3, 2),
        "mbconv4": MnasRow(6, 3, 96, 2, 1),
        "mbconv5": MnasRow(6, 5, 192, 4, 2),
        "mbconv6": MnasRow(6, 3, 320, 1, 1),
    },
)
SMALL = MnasTable(
    8,
    {
        "sepconv": MnasRow(1, 3, 8, 1, 1),
        "mbconv1": MnasRow(3, 3, 16, 1, 2),
        "mbconv2": MnasRow(6, 3, 16, 2, 2),
        "mbconv3": MnasRow(6, 5, 32, 4, 2, se=True),
        "mbconv4": MnasRow(6, 3, 32, 3, 1, se=True),
        "mbconv5": MnasRow(6, 5, 88, 3, 2, se=True),
        "mbconv6": MnasRow(6, 3, 144, 1, 1),
    },
)
HEAD_CHANNELS = 1280  # never scaled


class MnasNetOptions(CommonOptions, total=False):
    """Options of MnasNet."""

    width: float
    norm_momentum: float


class MnasNet(ImageClassifier):
    """MnasNet: 3x3 stem, seven stages of inverted residuals, 1x1 convolution, pooled linear head.

    The paper does not specify the initialization; this network uses He initialization.

    Args:
        variant: the rows of the table.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        width: factor by which the variant's numbers of channels are multiplied, greater than 0.
            The product is rounded to a multiple of 8. The last convolution keeps 1280 channels.
        norm_momentum: weight of the newest batch in BatchNorm's running averages, in (0, 1]. The
            default suits long training; short runs need a larger value.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and `mbconv1`; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). The last stage has stride 32.

    Raises:
        ValueError: `width`, `norm_momentum` or `dropout` is out of range.
    """

    def __init__(
        self,
        variant: MnasTable,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        norm_momentum: float = 3e-4,
        dropout: float = 0.2,
        small_images: bool = False,
    ) -> None:
        check_positive("width", width)
        check_number("norm_momentum", norm_momentum, "in (0, 1]", lambda number: 0 < number <= 1)
        norm = partial(nn.BatchNorm2d, momentum=norm_momentum)
        channels, scaled_rows = variant.scaled(width)
        rows = dict(scaled_rows)

        def block(row: MnasRow, inputs: int, stride: int, _rate: float) -> InvertedResidual:
            shape = (inputs, inputs * row.expansion, row.channels, row.kernel_size, stride)
            se = squeeze_input if row.se else None
            return InvertedResidual(*shape, se=se, norm=norm, act=nn.ReLU)

        stem = ConvNormAct(in_channels, channels, 3, 1 if small_images else 2, norm=norm)
        stages = inverted_residual_stages(channels, rows.values(), block)
        if small_images:
            remove_stride(stages[1][0])  # mbconv1
        before = ConvNormAct(rows["mbconv6"].channels, HEAD_CHANNELS, 1, norm=norm)
        head = ClassifierHead(HEAD_CHANNELS, num_classes, before=before, dropout=dropout)
        super().__init__(stem, stages, head, names=("conv1", *rows))


@builder
def mnasnet_a1(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-A1: the paper's main network, with squeeze-and-excitation."""
    return build("mnasnet_a1", weights, MnasNet, A1, **options)


@builder
def mnasnet_small(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-small: searched for a much lower latency."""
    return build("mnasnet_small", weights, MnasNet, SMALL, **options)


@builder
def mnasnet0_5(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-B1 with half of the channels, as in torchvision."""
    return build("mnasnet0_5", weights, MnasNet, B1.scaled(0.5), **options)


@builder
def mnasnet0_75(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-B1 with three quarters of the channels, as in torchvision."""
    return build("mnasnet0_75", weights, MnasNet, B1.scaled(0.75), **options)


@builder
def mnasnet1_0(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-B1, without squeeze-and-excitation."""
    return build("mnasnet1_0", weights, MnasNet, B1, **options)


@builder
def mnasnet1_3(*, weights: WeightsSource = None, **options: Unpack[MnasNetOptions]) -> MnasNet:
    """MnasNet-B1 with 1.3 times the channels, as in torchvision."""
    return build("mnasnet1_3", weights, MnasNet, B1.scaled(1.3), **options)
