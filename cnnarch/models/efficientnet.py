"""EfficientNet: a baseline scaled in width, depth and resolution (Tan and Le, 2019)."""

import math
from functools import partial
from typing import ClassVar, Unpack

from torch import nn

from cnnarch.blocks._checks import check_positive, check_probability
from cnnarch.blocks.compound_scaling import MBConvRow, Scaling, scale_rows
from cnnarch.blocks.conv import ConvNormAct, Padding, remove_stride
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import uniform_
from cnnarch.blocks.inverted_residual import InvertedResidual, round_channels, squeeze_input
from cnnarch.blocks.inverted_residual_stages import inverted_residual_stages
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.facts.builders import builder

__all__ = [
    "EfficientNet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_b8",
    "efficientnet_l2",
]

B0 = Scaling(1.0, 1.0, 224, 0.2)
B1 = Scaling(1.0, 1.1, 240, 0.2)
B2 = Scaling(1.1, 1.2, 260, 0.3)
B3 = Scaling(1.2, 1.4, 300, 0.3)
B4 = Scaling(1.4, 1.8, 380, 0.4)
B5 = Scaling(1.6, 2.2, 456, 0.4)
B6 = Scaling(1.8, 2.6, 528, 0.5)
B7 = Scaling(2.0, 3.1, 600, 0.5)
B8 = Scaling(2.2, 3.6, 672, 0.5)
L2 = Scaling(4.3, 5.3, 800, 0.5)

STEM_CHANNELS = 32  # stage 1 of Table 1
TABLE_1 = {
    "stage2": MBConvRow(1, 3, 1, 16, 1),
    "stage3": MBConvRow(6, 3, 2, 24, 2),
    "stage4": MBConvRow(6, 5, 2, 40, 2),
    "stage5": MBConvRow(6, 3, 2, 80, 3),
    "stage6": MBConvRow(6, 5, 1, 112, 3),
    "stage7": MBConvRow(6, 5, 2, 192, 4),
    "stage8": MBConvRow(6, 3, 1, 320, 1),
}
HEAD_CHANNELS = 1280  # stage 9
IMAGENET_CLASSES = 1000  # the authors' classifier initialization assumes this number


class Options(ModelOptions, total=False):
    """Options of the EfficientNets."""

    dropout: float | None
    drop_path: float
    norm_eps: float
    padding: Padding
    small_images: bool


class EfficientNet(ImageClassifier):
    """EfficientNet: 3x3 stem, seven stages of MBConv, 1x1 convolution, pooled linear head.

    Numbers of channels are multiplied by the width factor and rounded to multiples of 8. Numbers
    of layers are multiplied by the depth factor and rounded up. Weights are initialized as in the
    authors' code: from N(0, 2 / fan_out) in convolutions, and from U(-b, b) in the classifier,
    where b is 1 / sqrt(num_classes), or 1 / sqrt(1000) if there are fewer than 1000 classes.
    BatchNorm's momentum is 0.01.

    Args:
        scaling: the variant's width, depth, resolution (not used here) and dropout.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1); None uses the variant's.
        drop_path: maximum probability of dropping a residual branch, in [0, 1); for block i of n,
            the probability is drop_path * i / n.
        norm_eps: constant that BatchNorm adds to the variance.
        padding: "symmetric", or "same" as in TensorFlow and the authors' checkpoints.
        small_images: use stride 1 in the stem and `stage3`; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 2, 4, 8, 16, 16, 32, 32.

    Raises:
        ValueError: `dropout`, `drop_path`, `norm_eps` or the scaling is out of range, or
            `padding` is unknown.
    """

    act: ClassVar[type[nn.Module]] = nn.SiLU
    has_se: ClassVar[bool] = True
    fixed_depth: ClassVar[tuple[str, ...]] = ()  # stages whose number of layers is not scaled
    fixed_ends: ClassVar[bool] = False  # whether stem and head keep their width

    def __init__(
        self,
        scaling: Scaling,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float | None = None,
        drop_path: float = 0.2,
        norm_eps: float = 1e-3,
        padding: Padding = "symmetric",
        small_images: bool = False,
    ) -> None:
        check_positive("norm_eps", norm_eps)
        check_probability("drop_path", drop_path)
        norm = partial(nn.BatchNorm2d, eps=norm_eps, momentum=0.01)
        layer = partial(ConvNormAct, padding=padding, norm=norm, act=self.act)
        se = partial(squeeze_input, act=self.act) if self.has_se else None
        mbconv = partial(InvertedResidual, se=se, padding=padding, norm=norm, act=self.act)
        rows = scale_rows(TABLE_1, scaling, fixed_depth=self.fixed_depth)
        width = 1.0 if self.fixed_ends else scaling.width
        channels = round_channels(STEM_CHANNELS, width)
        stem = layer(in_channels, channels, 3, 1 if small_images else 2)

        def block(row: MBConvRow, inputs: int, stride: int, rate: float) -> InvertedResidual:
            shape = (inputs, inputs * row.expansion, row.channels, row.kernel_size, stride)
            return mbconv(*shape, drop_path=rate)

        stages = inverted_residual_stages(channels, rows.values(), block, drop_path)
        if small_images:
            remove_stride(stages[1][0])  # stage3
        features = round_channels(HEAD_CHANNELS, width)
        head = ClassifierHead(
            features,
            num_classes,
            before=layer(rows["stage8"].channels, features, 1),
            dropout=scaling.dropout if dropout is None else dropout,
            make_classifier=make_classifier,
        )
        super().__init__(stem, stages, head, names=("stage1", *rows))
        self.options |= {"dropout": head.dropout_rate}  # the effective value, not None


def make_classifier(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer whose initial weights are uniform, as in the authors' code."""
    # With a bound for 10 classes, the logits start 10 times as large and learn half as fast.
    bound = 1 / math.sqrt(max(out_features, IMAGENET_CLASSES))
    return uniform_(nn.Linear(in_features, out_features), bound)


@builder
def efficientnet_b0(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B0: the baseline of Table 1."""
    return build("efficientnet_b0", weights, EfficientNet, B0, **options)


@builder
def efficientnet_b1(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B1: width 1.0, depth 1.1."""
    return build("efficientnet_b1", weights, EfficientNet, B1, **options)


@builder
def efficientnet_b2(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B2: width 1.1, depth 1.2."""
    return build("efficientnet_b2", weights, EfficientNet, B2, **options)


@builder
def efficientnet_b3(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B3: width 1.2, depth 1.4."""
    return build("efficientnet_b3", weights, EfficientNet, B3, **options)


@builder
def efficientnet_b4(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B4: width 1.4, depth 1.8."""
    return build("efficientnet_b4", weights, EfficientNet, B4, **options)


@builder
def efficientnet_b5(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B5: width 1.6, depth 2.2."""
    return build("efficientnet_b5", weights, EfficientNet, B5, **options)


@builder
def efficientnet_b6(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B6: width 1.8, depth 2.6."""
    return build("efficientnet_b6", weights, EfficientNet, B6, **options)


@builder
def efficientnet_b7(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B7: width 2.0, depth 3.1."""
    return build("efficientnet_b7", weights, EfficientNet, B7, **options)


@builder
def efficientnet_b8(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-B8: width 2.2, depth 3.6."""
    return build("efficientnet_b8", weights, EfficientNet, B8, **options)


@builder
def efficientnet_l2(*, weights: WeightsSource = None, **options: Unpack[Options]) -> EfficientNet:
    """EfficientNet-L2: width 4.3, depth 5.3."""
    return build("efficientnet_l2", weights, EfficientNet, L2, **options)
