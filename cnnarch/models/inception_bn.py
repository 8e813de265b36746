"""BN-Inception: GoogLeNet redesigned for BatchNorm (Ioffe and Szegedy, 2015); SE is optional."""

from typing import Literal, NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, conv_7x7
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inception import Branches
from cnnarch.blocks.pooling import AlignedMaxPool2d, caffe_max_pool
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["BNInception", "bn_inception", "se_bn_inception"]

SE_REDUCTION = 16
NAMES = ("conv1", "conv2", "inception_3b", "inception_4d", "inception_5b")


class BNInceptionRow(NamedTuple):
    """A block of Fig. 5, the paper's last table: its columns from "stride" to "Pool +proj"."""

    stride: int
    c1: int  # "#1x1"; 0 omits the branch
    c3: tuple[int, int]  # "#3x3 reduce", "#3x3"
    double: tuple[int, int]  # "double #3x3 reduce", "double #3x3"
    pool: Literal["avg", "max"]
    proj: int  # 0 means "pass through"


ROW_3A = BNInceptionRow(1, 64, (64, 64), (64, 96), "avg", 32)
ROW_3B = BNInceptionRow(1, 64, (64, 96), (64, 96), "avg", 64)
ROW_3C = BNInceptionRow(2, 0, (128, 160), (64, 96), "max", 0)
ROW_4A = BNInceptionRow(1, 224, (64, 96), (96, 128), "avg", 128)
ROW_4B = BNInceptionRow(1, 192, (96, 128), (96, 128), "avg", 128)
ROW_4C = BNInceptionRow(1, 160, (128, 160), (128, 160), "avg", 128)
ROW_4D = BNInceptionRow(1, 96, (128, 192), (160, 192), "avg", 128)
ROW_4E = BNInceptionRow(2, 0, (128, 192), (192, 256), "max", 0)
ROW_5A = BNInceptionRow(1, 352, (192, 320), (160, 224), "avg", 128)
ROW_5B = BNInceptionRow(1, 352, (192, 320), (192, 224), "max", 128)
FIG_5 = ((ROW_3A, ROW_3B), (ROW_3C, ROW_4A, ROW_4B, ROW_4C, ROW_4D), (ROW_4E, ROW_5A, ROW_5B))


class DoubleInception(Branches):
    """Inception block with two 3x3 convolutions in place of the 5x5 convolution.

    BatchNorm and ReLU follow each convolution. The children are `branch1x1`, `branch3x3`,
    `branch_double` and `branch_pool`, in the order of their output channels. In a block with
    stride 2, the last convolution of each branch and the pool have that stride.

    Args:
        in_channels: number of input channels.
        row: the block's row in Fig. 5.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_channels: int, row: BNInceptionRow) -> None:
        super().__init__()
        if row.c1:
            self.branch1x1 = ConvNormAct(in_channels, row.c1, 1)
        self.branch3x3 = nn.Sequential()
        self.branch3x3.reduce = ConvNormAct(in_channels, row.c3[0], 1)
        self.branch3x3.conv = ConvNormAct(*row.c3, 3, row.stride)
        self.branch_double = nn.Sequential()
        self.branch_double.reduce = ConvNormAct(in_channels, row.double[0], 1)
        self.branch_double.conv1 = ConvNormAct(*row.double, 3)
        self.branch_double.conv2 = ConvNormAct(row.double[1], row.double[1], 3, row.stride)
        self.branch_pool = nn.Sequential()
        if row.stride == 2:
            self.branch_pool.pool = AlignedMaxPool2d()
        elif row.pool == "max":
            self.branch_pool.pool = nn.MaxPool2d(3, 1, 1)
        else:
            self.branch_pool.pool = nn.AvgPool2d(3, 1, 1)
        if row.proj:
            self.branch_pool.conv = ConvNormAct(in_channels, row.proj, 1)
        self.out_channels = row.c1 + row.c3[1] + row.double[1] + (row.proj or in_channels)


class BNInception(ImageClassifier):
    """BN-Inception ("Inception v2" of 2015): GoogLeNet with BatchNorm and only 3x3 kernels.

    The paper specifies neither the initialization nor BatchNorm's eps. This network uses He
    initialization and an eps of 1e-5, the default in PyTorch and Caffe.

    Args:
        se_reduction: if given, each block is followed by an `SE` whose squeeze has
            channels / se_reduction channels; SE-BN-Inception uses 16.
        stages: for each stage, the rows of its Inception blocks.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use a 3x3 stem with stride 1 and no first pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `se_reduction` is not a positive integer, or `dropout` is out of range.
    """

    def __init__(
        self,
        se_reduction: int | None = None,
        stages: tuple[tuple[BNInceptionRow, ...], ...] = FIG_5,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
    ) -> None:
        if se_reduction is not None:
            check_integer("se_reduction", se_reduction, 1)
        stem = conv_7x7(in_channels, 64, small_images)
        convs = (ConvNormAct(64, 64, 1), ConvNormAct(64, 192, 3))
        parts = [Stage(*convs) if small_images else Stage(*convs, pool=caffe_max_pool())]
        channels = 192
        for rows in stages:  # only the first needs a pool; the others start with a stride of 2
            stage = Stage() if len(parts) > 1 else Stage(pool=caffe_max_pool())
            for row in rows:
                block = DoubleInception(channels, row)
                channels = block.out_channels
                stage.append(_with_se(block, se_reduction) if se_reduction else block)
            parts.append(stage)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        # Each pool needs two pixels, and the stem rounds up.
        min_size = 2 if small_images else 2 * 4 - 1
        super().__init__(stem, parts, head, names=NAMES, min_input_size=min_size)


def _with_se(block: DoubleInception, reduction: int) -> nn.Sequential:
    with_se = nn.Sequential()
    with_se.inception = block
    with_se.se = SE(block.out_channels, block.out_channels // reduction)
    return with_se


@builder
def bn_inception(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> BNInception:
    """BN-Inception, as in the paper's appendix."""
    return build("bn_inception", weights, BNInception, **options)


@builder
def se_bn_inception(
    *, weights: WeightsSource = None, **options: Unpack[CommonOptions]
) -> BNInception:
    """SE-BN-Inception: squeeze-and-excitation on the output of every Inception block."""
    return build("se_bn_inception", weights, BNInception, SE_REDUCTION, **options)
