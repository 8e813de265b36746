"""RepVGG: branches for training, plain 3x3 convolutions for inference (Ding et al., 2021)."""

from functools import partial
from itertools import cycle
from typing import NamedTuple, Unpack

from cnnarch.blocks._checks import check_integer, check_length, check_positive
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.reparameterization import RepConvAct
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DeployOptions
from cnnarch.facts.builders import builder

__all__ = [
    "RepVGG",
    "repvgg_a0",
    "repvgg_a1",
    "repvgg_a2",
    "repvgg_b0",
    "repvgg_b1",
    "repvgg_b1g4",
    "repvgg_b2",
    "repvgg_b2g4",
    "repvgg_b3",
    "repvgg_b3g4",
]


class RepVGGRow(NamedTuple):
    """A row of Table 3: the layers of the stages after the first, and the multipliers a and b.

    The multiplier a scales the widths of all stages except the last, which b scales.
    """

    layers: tuple[int, int, int, int]
    a: float
    b: float


WIDTHS = (64, 128, 256, 512)
MAX_STEM_CHANNELS = 64
LAYERS_A = (2, 4, 14, 1)
LAYERS_B = (4, 6, 16, 1)
A0 = RepVGGRow(LAYERS_A, 0.75, 2.5)
A1 = RepVGGRow(LAYERS_A, 1.0, 2.5)
A2 = RepVGGRow(LAYERS_A, 1.5, 2.75)
B0 = RepVGGRow(LAYERS_B, 1.0, 2.5)
B1 = RepVGGRow(LAYERS_B, 2.0, 4.0)
B2 = RepVGGRow(LAYERS_B, 2.5, 5.0)
B3 = RepVGGRow(LAYERS_B, 3.0, 5.0)


class RepVGG(ImageClassifier):
    """RepVGG: a stack of 3x3 convolutions in three branches, pooled linear head.

    Each layer adds a 3x3 convolution, a 1x1 convolution and, if the shape is unchanged, its input,
    each with its own BatchNorm. `cnnarch.inference.fuse` merges them into one 3x3 convolution with
    a bias. The paper does not specify the initialization; this network uses He initialization.

    Args:
        row: the network's layers and multipliers.
        groups: number of groups in the convolutions of every other layer, starting with the third.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: use stride 1 in the first two stages; 32x32 images give 4x4 maps.
        deploy: build the form for inference that `fuse` returns, without branches and BatchNorm.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16 and 32.

    Raises:
        ValueError: a number in `row`, `groups` or `dropout` is out of range.
    """

    def __init__(
        self,
        row: RepVGGRow,
        groups: int = 1,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        small_images: bool = False,
        deploy: bool = False,
    ) -> None:
        check_length("layers", row.layers, len(WIDTHS))
        check_positive("a", row.a)
        check_positive("b", row.b)
        check_integer("groups", groups, 1)
        layer = partial(RepConvAct, deploy=deploy)
        multipliers = (row.a, row.a, row.a, row.b)
        widths = [int(width * m) for width, m in zip(WIDTHS, multipliers, strict=True)]
        channels = min(MAX_STEM_CHANNELS, widths[0])
        stem = layer(in_channels, channels, 3, 1 if small_images else 2, identity=False)
        stages, every_other = [], cycle((1, groups))
        for layers, width in zip(row.layers, widths, strict=True):
            check_integer("layers of a stage", layers, 1)
            stage = Stage()
            for i in range(layers):
                shape = (channels, width, 3, 1 if i else 2)
                stage.append(layer(*shape, groups=next(every_other)))
                channels = width
            stages.append(stage)
        if small_images:
            remove_stride(stages[0][0])
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        super().__init__(stem, stages, head, names=[f"stage{i}" for i in range(1, 6)])


@builder
def repvgg_a0(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-A0, with 22 layers."""
    return build("repvgg_a0", weights, RepVGG, A0, **options)


@builder
def repvgg_a1(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-A1, with 22 layers."""
    return build("repvgg_a1", weights, RepVGG, A1, **options)


@builder
def repvgg_a2(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-A2, with 22 layers."""
    return build("repvgg_a2", weights, RepVGG, A2, **options)


@builder
def repvgg_b0(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B0, with 28 layers."""
    return build("repvgg_b0", weights, RepVGG, B0, **options)


@builder
def repvgg_b1(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B1, with 28 layers."""
    return build("repvgg_b1", weights, RepVGG, B1, **options)


@builder
def repvgg_b1g4(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B1g4: RepVGG-B1 with four groups in every other layer."""
    return build("repvgg_b1g4", weights, RepVGG, B1, 4, **options)


@builder
def repvgg_b2(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B2, with 28 layers."""
    return build("repvgg_b2", weights, RepVGG, B2, **options)


@builder
def repvgg_b2g4(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B2g4: RepVGG-B2 with four groups in every other layer."""
    return build("repvgg_b2g4", weights, RepVGG, B2, 4, **options)


@builder
def repvgg_b3(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B3, with 28 layers."""
    return build("repvgg_b3", weights, RepVGG, B3, **options)


@builder
def repvgg_b3g4(*, weights: WeightsSource = None, **options: Unpack[DeployOptions]) -> RepVGG:
    """RepVGG-B3g4: RepVGG-B3 with four groups in every other layer."""
    return build("repvgg_b3g4", weights, RepVGG, B3, 4, **options)
