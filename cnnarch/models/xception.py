"""Xception: Inception taken to the extreme, depthwise separable convolutions (Chollet, 2016)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.xception import SeparableConv, XceptionModule
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["Xception", "xception"]

NAMES = ("conv2", "block1", "block2", "block11", "conv4")


class XceptionRow(NamedTuple):
    """The widths of Fig. 5.

    Args:
        stem: filters in the two full convolutions.
        entry: filters in both convolutions of each of the three modules of the entry flow.
        middle: number of modules in the middle flow, with the last width of the entry flow.
        exit_module: filters in the two convolutions of the module of the exit flow.
        exit_convs: filters in the last two separable convolutions.
    """

    stem: tuple[int, int]
    entry: tuple[int, int, int]
    middle: int
    exit_module: tuple[int, int]
    exit_convs: tuple[int, int]


LENGTHS = {"stem": 2, "entry": 3, "exit_module": 2, "exit_convs": 2}
FIG_5 = XceptionRow((32, 64), (128, 256, 728), 8, (728, 1024), (1536, 2048))


class Xception(ImageClassifier):
    """Xception: two convolutions, twelve modules (`XceptionModule`), two separable convolutions.

    Each stage after the stem starts with a module that downsamples at its end, by a pool in the
    branch and a stride in the shortcut. The paper does not specify the initialization; this
    network uses He initialization.

    Args:
        row: the widths in the paper's Fig. 5.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the stem and the first module; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: a field of `row` has the wrong number of entries, or a count or `dropout` is out
            of range.
    """

    def __init__(
        self,
        row: XceptionRow = FIG_5,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.5,
        small_images: bool = False,
    ) -> None:
        for name, length in LENGTHS.items():
            check_length(name, getattr(row, name), length)
        check_integer("middle", row.middle, 0)
        stride = 1 if small_images else 2
        first, second = row.stem
        stem = nn.Sequential()
        stem.conv1 = ConvNormAct(in_channels, first, 3, stride, padding=0)
        stem.conv2 = ConvNormAct(first, second, 3, padding=0)
        width1, width2, width3 = row.entry
        middle = (width3, width3, width3)
        stages = [
            Stage(XceptionModule(second, (width1, width1), stride, leading_act=False)),
            Stage(XceptionModule(width1, (width2, width2), 2)),
            Stage(
                XceptionModule(width2, (width3, width3), 2),
                *(XceptionModule(width3, middle) for _ in range(row.middle)),
            ),
            _exit_flow(width3, row.exit_module, row.exit_convs),
        ]
        head = ClassifierHead(row.exit_convs[-1], num_classes, dropout=dropout)
        # Neither convolution of the stem is padded.
        min_size = 2 * stride + 3
        super().__init__(stem, stages, head, names=NAMES, min_input_size=min_size)


def _exit_flow(in_channels: int, module: Sequence[int], convs: Sequence[int]) -> Stage:
    stage = Stage(XceptionModule(in_channels, module, 2))
    channels = module[-1]
    for width in convs:
        conv = SeparableConv(channels, width)
        conv.act = nn.ReLU()
        stage.append(conv)
        channels = width
    return stage


@builder
def xception(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> Xception:
    """Xception for ImageNet: 36 convolutional layers in 14 modules."""
    return build("xception", weights, Xception, **options)
