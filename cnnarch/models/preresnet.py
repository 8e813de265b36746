"""Pre-activation ResNet: BN and ReLU before each convolution (He et al., 2016)."""

from functools import partial
from typing import Unpack

from torch import nn

from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.preactivation import PreActBottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet import ResNetOptions

__all__ = [
    "PreResNet",
    "preresnet50",
    "preresnet101",
    "preresnet152",
    "preresnet200",
]

DEPTHS_200 = (3, 24, 36, 3)


class PreResNet(ResidualNetwork):
    """Pre-activation ResNet: 7x7 stem, four stages of bottlenecks that end with a sum.

    The last stage ends with the BN and ReLU that follow the last sum.

    Args:
        depths: number of blocks in each of the four stages.
        widths: width of the bottlenecks in each stage; the stem has the first stage's width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        stride_in_1x1: whether a bottleneck has its stride in the first 1x1, as in the paper,
            rather than in the 3x3.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        stride_in_1x1: bool = True,
    ) -> None:
        super().__init__(
            conv_7x7(in_channels, widths[0], small_images),
            partial(PreActBottleneck, stride_in_1x1=stride_in_1x1),
            widths,
            depths,
            names=resnet.ROWS,
            pool=resnet.first_pool(small_images),
            final_norm=nn.BatchNorm2d,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def preresnet50(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> PreResNet:
    """Pre-activation ResNet-50: depths (3, 4, 6, 3)."""
    return build("preresnet50", weights, PreResNet, resnet.DEPTHS_50, **options)


@builder
def preresnet101(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> PreResNet:
    """Pre-activation ResNet-101: depths (3, 4, 23, 3)."""
    return build("preresnet101", weights, PreResNet, resnet.DEPTHS_101, **options)


@builder
def preresnet152(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> PreResNet:
    """Pre-activation ResNet-152: depths (3, 8, 36, 3)."""
    return build("preresnet152", weights, PreResNet, resnet.DEPTHS_152, **options)


@builder
def preresnet200(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> PreResNet:
    """Pre-activation ResNet-200: depths (3, 24, 36, 3)."""
    return build("preresnet200", weights, PreResNet, DEPTHS_200, **options)
