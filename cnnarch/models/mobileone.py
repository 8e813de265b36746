"""MobileOne: depthwise and 1x1 convolutions in branches that are merged (Vasu et al., 2022)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length, check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.reparameterization import RepConvAct
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DeployOptions
from cnnarch.facts.builders import builder

__all__ = [
    "MobileOne",
    "mobileone_s0",
    "mobileone_s1",
    "mobileone_s2",
    "mobileone_s3",
    "mobileone_s4",
]


class MobileOneStage(NamedTuple):
    """A row of the table of network specifications: number of blocks, stride and channels."""

    blocks: int
    stride: int
    channels: int


class MobileOneRow(NamedTuple):
    """A network's columns of the same table: alpha of each stage, k, and whether SE is used.

    The factor alpha multiplies a stage's channels, and k is the number of equal branches. Only the
    last two stages of a network with SE have squeeze-and-excitation.
    """

    alphas: tuple[float, float, float, float, float]
    k: int = 1
    se: bool = False


MAX_STEM_CHANNELS = 64
STAGES = (  # those after the stem
    MobileOneStage(2, 2, 64),
    MobileOneStage(8, 2, 128),
    MobileOneStage(5, 2, 256),
    MobileOneStage(5, 1, 256),
    MobileOneStage(1, 2, 512),
)
STAGES_WITH_SE = (3, 4)
SE_REDUCTION = 16
S0 = MobileOneRow((0.75, 1.0, 1.0, 1.0, 2.0), k=4)
S1 = MobileOneRow((1.5, 1.5, 2.0, 2.0, 2.5))
S2 = MobileOneRow((1.5, 2.0, 2.5, 2.5, 4.0))
S3 = MobileOneRow((2.0, 2.5, 3.0, 3.0, 4.0))
S4 = MobileOneRow((3.0, 3.5, 3.5, 3.5, 4.0), se=True)


class MobileOneBlock(nn.Sequential):
    """A depthwise 3x3 convolution and a 1x1 convolution, each in branches and with an activation.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        stride: stride of the depthwise convolution, in pixels.
        layer: creates the two layers.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, layer: Callable[..., nn.Module]
    ) -> None:
        super().__init__()
        self.depthwise = layer(in_channels, in_channels, 3, stride, groups=in_channels)
        self.pointwise = layer(in_channels, out_channels, 1)


class MobileOne(ImageClassifier):
    """MobileOne: 3x3 stem, 21 pairs of depthwise and 1x1 convolutions, pooled linear head.

    Each convolution adds k branches of its size, a 1x1 branch if it is larger and, if the shape is
    unchanged, its input, each with its own BatchNorm. `cnnarch.inference.fuse` merges them into
    one convolution with a bias. The paper does not specify the initialization; this network uses He
    initialization.

    Args:
        row: the network's columns of the table of network specifications.
        stages: the rows of the table after the first, which is the stem.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the first two stages; 32x32 images give 4x4 maps.
        deploy: build the form for inference that `fuse` returns, without branches and BatchNorm.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16, 16 and 32.

    Raises:
        ValueError: a number in `row`, `stages` or `dropout` is out of range.
    """

    def __init__(
        self,
        row: MobileOneRow,
        stages: Sequence[MobileOneStage] = STAGES,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
        deploy: bool = False,
    ) -> None:
        check_length("alphas", row.alphas, len(stages))
        for alpha in row.alphas:
            check_positive("alpha", alpha)
        widths = [int(s.channels * alpha) for s, alpha in zip(stages, row.alphas, strict=True)]
        channels = min(MAX_STEM_CHANNELS, widths[0])
        stem_stride = 1 if small_images else 2
        stem = RepConvAct(in_channels, channels, 3, stem_stride, identity=False, deploy=deploy)
        built = []
        for i, (stage, width) in enumerate(zip(stages, widths, strict=True)):
            check_integer("blocks of a stage", stage.blocks, 1)
            attention = squeeze if row.se and i in STAGES_WITH_SE else None
            layer = partial(RepConvAct, branches=row.k, attention=attention, deploy=deploy)
            blocks = Stage()
            for j in range(stage.blocks):
                blocks.append(MobileOneBlock(channels, width, 1 if j else stage.stride, layer))
                channels = width
            built.append(blocks)
        if small_images:
            remove_stride(built[0][0])
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        names = [f"stage{i + 1}" for i in range(1 + len(stages))]
        super().__init__(stem, built, head, names=names)


def squeeze(channels: int) -> SE:
    """Return squeeze-and-excitation that squeezes to a sixteenth of the channels."""
    return SE(channels, channels // SE_REDUCTION)


@builder
def mobileone_s0(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> MobileOne:
    """MobileOne-S0, the only one with four branches of each kind."""
    return build("mobileone_s0", weights, MobileOne, S0, **options)


@builder
def mobileone_s1(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> MobileOne:
    """MobileOne-S1."""
    return build("mobileone_s1", weights, MobileOne, S1, **options)


@builder
def mobileone_s2(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> MobileOne:
    """MobileOne-S2."""
    return build("mobileone_s2", weights, MobileOne, S2, **options)


@builder
def mobileone_s3(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> MobileOne:
    """MobileOne-S3."""
    return build("mobileone_s3", weights, MobileOne, S3, **options)


@builder
def mobileone_s4(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> MobileOne:
    """MobileOne-S4, the only one with squeeze-and-excitation."""
    return build("mobileone_s4", weights, MobileOne, S4, **options)
