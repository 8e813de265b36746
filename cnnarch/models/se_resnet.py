"""SE-ResNet and SE-ResNeXt: branches that end in squeeze-and-excitation (Hu et al., 2017).

The strides, pool and biases follow the authors' released models (SE-ResNet-50.prototxt and others
in the repository hujie-frank/SENet).
"""

from functools import partial
from typing import Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.pooling import caffe_max_pool
from cnnarch.blocks.residual import Bottleneck, Residual
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork, group_width_at
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet_cifar import CifarResNet, CifarResNetOptions
from cnnarch.models.resnext import T_32X4D

__all__ = [
    "SEResNet",
    "se_resnet18",
    "se_resnet34",
    "se_resnet50",
    "se_resnet101",
    "se_resnet110_cifar",
    "se_resnet152",
    "se_resnext50_32x4d",
    "se_resnext101_32x4d",
]


class SENetOptions(ResidualOptions, total=False):
    """Options of the residual networks with squeeze-and-excitation."""

    ceil_pool: bool
    reduction: int


class SEResNetOptions(SENetOptions, total=False):
    """Options of the SE-ResNets."""

    stride_in_1x1: bool | None


def squeeze_excite(channels: int, reduction: int = 16) -> SE:
    """Return the paper's block, whose squeeze has `channels // reduction` channels."""
    check_integer("reduction", reduction, 1)
    return SE(channels, channels // reduction)


def first_pool(small_images: bool, ceil_pool: bool) -> nn.MaxPool2d | None:
    """Return the pool at the start of conv2_x: Caffe's if `ceil_pool` is set, else ResNet's.

    Both pools give 112 / 2 = 56 pixels, but their windows are offset by one pixel.
    """
    return caffe_max_pool() if ceil_pool and not small_images else resnet.first_pool(small_images)


class SEResNet(ResidualNetwork):
    """ResNet or ResNeXt with squeeze-and-excitation after the last norm of each branch.

    Args:
        block: `Residual` (two 3x3) or `Bottleneck` (1x1, 3x3, 1x1).
        depths: number of blocks in each of the four stages.
        groups: number of groups in the bottlenecks' 3x3 convolutions, ResNeXt's cardinality.
        group_width: number of channels per group in conv2_x, doubled in each later stage. None
            uses the width of ResNet's 3x3 convolution.
        widths: width of the blocks in each stage; the stem has the first stage's width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        stride_in_1x1: whether a bottleneck has its stride in the first 1x1 rather than in the 3x3.
            None follows the released models: True for SE-ResNet, False for SE-ResNeXt.
        ceil_pool: whether the max-pool works as in Caffe and in the released models, without
            padding and with sizes rounded up. False pads each side by one pixel, as in
            torchvision's ResNets.
        reduction: the map's number of channels divided by the squeeze's, the paper's r.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, a stage's number of channels per group
            is not an integer, or `stride_in_1x1` is set for blocks without a 1x1 convolution.
    """

    def __init__(
        self,
        block: type[Residual | Bottleneck],
        depths: tuple[int, ...],
        groups: int = 1,
        group_width: int | None = None,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        stride_in_1x1: bool | None = None,
        ceil_pool: bool = True,
        reduction: int = 16,
    ) -> None:
        if stride_in_1x1 and not issubclass(block, Bottleneck):
            raise ValueError(f"stride_in_1x1 requires Bottleneck blocks, got {block.__name__}")
        if stride_in_1x1 is None:
            stride_in_1x1 = groups == 1 and issubclass(block, Bottleneck)
        attention = partial(squeeze_excite, reduction=reduction)

        def make_block(in_channels: int, channels: int, stride: int) -> Residual | Bottleneck:
            if issubclass(block, Residual):
                return block(in_channels, channels, stride, attention=attention)
            return block(
                in_channels,
                channels,
                stride,
                groups=groups,
                group_width=group_width_at(channels, widths[0], group_width),
                stride_in_1x1=stride_in_1x1,
                attention=attention,
            )

        super().__init__(
            conv_7x7(in_channels, widths[0], small_images),
            make_block,
            widths,
            depths,
            names=resnet.ROWS,
            pool=first_pool(small_images, ceil_pool),
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
            min_input_size=3 if ceil_pool and not small_images else 1,  # the pool needs two pixels
        )
        self.options |= {"stride_in_1x1": stride_in_1x1}  # the effective value, not None


@builder
def se_resnet18(*, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]) -> SEResNet:
    """SE-ResNet-18: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("se_resnet18", weights, SEResNet, Residual, resnet.DEPTHS_18, **options)


@builder
def se_resnet34(*, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]) -> SEResNet:
    """SE-ResNet-34: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("se_resnet34", weights, SEResNet, Residual, resnet.DEPTHS_34, **options)


@builder
def se_resnet50(*, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]) -> SEResNet:
    """SE-ResNet-50: bottlenecks, depths (3, 4, 6, 3)."""
    return build("se_resnet50", weights, SEResNet, Bottleneck, resnet.DEPTHS_50, **options)


@builder
def se_resnet101(*, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]) -> SEResNet:
    """SE-ResNet-101: bottlenecks, depths (3, 4, 23, 3)."""
    return build("se_resnet101", weights, SEResNet, Bottleneck, resnet.DEPTHS_101, **options)


@builder
def se_resnet152(*, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]) -> SEResNet:
    """SE-ResNet-152: bottlenecks, depths (3, 8, 36, 3)."""
    return build("se_resnet152", weights, SEResNet, Bottleneck, resnet.DEPTHS_152, **options)


@builder
def se_resnext50_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]
) -> SEResNet:
    """SE-ResNeXt-50: bottlenecks with 32 groups, depths (3, 4, 6, 3)."""
    return build(
        "se_resnext50_32x4d", weights, SEResNet, Bottleneck, resnet.DEPTHS_50, *T_32X4D, **options
    )


@builder
def se_resnext101_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]
) -> SEResNet:
    """SE-ResNeXt-101: bottlenecks with 32 groups, depths (3, 4, 23, 3)."""
    return build(
        "se_resnext101_32x4d", weights, SEResNet, Bottleneck, resnet.DEPTHS_101, *T_32X4D, **options
    )


@builder
def se_resnet110_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """SE-ResNet-110 for 32x32 images: n = 18; in the first stage, the squeeze has one channel."""
    return build("se_resnet110_cifar", weights, CifarResNet, 18, squeeze_excite, **options)
