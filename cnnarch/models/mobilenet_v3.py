"""MobileNet V3: a searched network with hard-swish activations (Howard et al., 2019)."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inverted_residual import InvertedResidual, round_channels
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["MobileNetV3", "mobilenet_v3_large", "mobilenet_v3_small"]

RE, HS = nn.ReLU, nn.Hardswish


class BneckRow(NamedTuple):
    """A row of Table 1 or 2: the kernel, "exp size", "#out", "SE", "NL" and "s"."""

    kernel_size: int
    hidden: int
    channels: int
    se: bool
    act: type[nn.Module]
    stride: int


class V3Table(NamedTuple):
    """The bottlenecks of a table by number, and the widths of its last two layers."""

    stages: Mapping[str, tuple[BneckRow, ...]]
    last: int
    hidden: int


STEM_CHANNELS = 16
LARGE = V3Table(  # Table 1; a stage contains the rows with the same number of output channels
    {
        "bneck1": (BneckRow(3, 16, 16, False, RE, 1),),
        "bneck2-3": (BneckRow(3, 64, 24, False, RE, 2), BneckRow(3, 72, 24, False, RE, 1)),
        "bneck4-6": (
            BneckRow(5, 72, 40, True, RE, 2),
            *(BneckRow(5, 120, 40, True, RE, 1) for _ in range(2)),
        ),
        "bneck7-10": (
            BneckRow(3, 240, 80, False, HS, 2),
            BneckRow(3, 200, 80, False, HS, 1),
            *(BneckRow(3, 184, 80, False, HS, 1) for _ in range(2)),
        ),
        "bneck11-12": (BneckRow(3, 480, 112, True, HS, 1), BneckRow(3, 672, 112, True, HS, 1)),
        "bneck13-15": (
            BneckRow(5, 672, 160, True, HS, 2),
            *(BneckRow(5, 960, 160, True, HS, 1) for _ in range(2)),
        ),
    },
    last=960,
    hidden=1280,
)
SMALL = V3Table(  # Table 2
    {
        "bneck1": (BneckRow(3, 16, 16, True, RE, 2),),
        "bneck2-3": (BneckRow(3, 72, 24, False, RE, 2), BneckRow(3, 88, 24, False, RE, 1)),
        "bneck4-6": (
            BneckRow(5, 96, 40, True, HS, 2),
            *(BneckRow(5, 240, 40, True, HS, 1) for _ in range(2)),
        ),
        "bneck7-8": (BneckRow(5, 120, 48, True, HS, 1), BneckRow(5, 144, 48, True, HS, 1)),
        "bneck9-11": (
            BneckRow(5, 288, 96, True, HS, 2),
            *(BneckRow(5, 576, 96, True, HS, 1) for _ in range(2)),
        ),
    },
    last=576,
    hidden=1024,
)


class MobileNetV3Options(CommonOptions, total=False):
    """Options of MobileNet V3."""

    width: float
    minimal: bool
    norm_eps: float
    padding: Padding


class MobileNetV3(ImageClassifier):
    """MobileNet V3: 3x3 stem, inverted residuals, 1x1 convolution, pool, hidden layer, classifier.

    The squeeze of squeeze-and-excitation is a quarter of a block's hidden width, and its gate is a
    hard sigmoid. BatchNorm's momentum is 0.01 (sec. 6.1.1). The paper does not specify the
    initialization; this network uses He initialization.

    Args:
        variant: the rows of the paper's table.
        num_classes: number of logits; 0 returns the output of the hidden layer.
        in_channels: number of channels in the input image.
        width: factor by which each layer's number of channels is multiplied, greater than 0. The
            product is rounded to a multiple of 8. The hidden layer before the classifier is not
            scaled down.
        minimal: use only 3x3 kernels and ReLU, and omit squeeze-and-excitation, as in the authors'
            "minimalistic" networks.
        dropout: probability of zeroing an output of the hidden layer, in [0, 1).
        small_images: use stride 1 in the stem and the first strided stage; 32x32 images give 4x4
            maps.
        norm_eps: constant that BatchNorm adds to the variance.
        padding: "symmetric", or "same" as in TensorFlow and the authors' checkpoints.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). The last stage has stride 32.

    Raises:
        ValueError: `width`, `dropout` or `norm_eps` is out of range, or `padding` is unknown.
    """

    def __init__(
        self,
        variant: V3Table,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        width: float = 1.0,
        minimal: bool = False,
        dropout: float = 0.2,
        small_images: bool = False,
        norm_eps: float = 1e-3,
        padding: Padding = "symmetric",
    ) -> None:
        check_positive("width", width)
        check_positive("norm_eps", norm_eps)
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=0.01)
        act = RE if minimal else HS
        layer = partial(ConvNormAct, padding=padding, norm=norm, act=act)
        block = partial(InvertedResidual, padding=padding, norm=norm)
        stem_channels = round_channels(STEM_CHANNELS, width)
        stem = layer(in_channels, stem_channels, 3, 1 if small_images else 2)
        tables = list(variant.stages.values())
        if minimal:
            tables = [tuple(map(_minimal, rows)) for rows in tables]
        stages = _stages(tables, width, block)
        if small_images:
            first = next(i for i, rows in enumerate(tables) if rows[0].stride > 1)
            remove_stride(stages[first][0])
        last = round_channels(variant.last, width)
        before = layer(round_channels(tables[-1][-1].channels, width), last, 1)
        features = round_channels(variant.hidden, max(1.0, width))
        hidden = nn.Sequential(OrderedDict(fc=nn.Linear(last, features), act=act()))
        head = ClassifierHead(features, num_classes, before=before, hidden=hidden, dropout=dropout)
        super().__init__(stem, stages, head, names=("conv1", *variant.stages))


def _stages(
    tables: list[tuple[BneckRow, ...]], width: float, block: Callable[..., InvertedResidual]
) -> list[Stage]:
    unscaled, channels = STEM_CHANNELS, round_channels(STEM_CHANNELS, width)
    stages = []
    for rows in tables:
        stage = Stage()
        for row in rows:
            # The authors' code scales the ratio's base, the rounded input width.
            hidden = round_channels(channels * row.hidden / unscaled)
            shape = (channels, hidden, round_channels(row.channels, width), row.kernel_size)
            stage.append(block(*shape, row.stride, se=_squeeze if row.se else None, act=row.act))
            unscaled, channels = row.channels, round_channels(row.channels, width)
        stages.append(stage)
    return stages


def _minimal(row: BneckRow) -> BneckRow:
    return row._replace(kernel_size=3, se=False, act=RE)


def _squeeze(hidden_channels: int, _in_channels: int) -> SE:
    return SE(hidden_channels, round_channels(hidden_channels / 4), gate=nn.Hardsigmoid)


@builder
def mobilenet_v3_large(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV3Options]
) -> MobileNetV3:
    """MobileNet V3 Large: 15 inverted residuals (Table 1)."""
    return build("mobilenet_v3_large", weights, MobileNetV3, LARGE, **options)


@builder
def mobilenet_v3_small(
    *, weights: WeightsSource = None, **options: Unpack[MobileNetV3Options]
) -> MobileNetV3:
    """MobileNet V3 Small: 11 inverted residuals (Table 2)."""
    return build("mobilenet_v3_small", weights, MobileNetV3, SMALL, **options)
