"""SK-ResNet: selective kernels in place of 3x3 convolutions (Li et al., 2019).

The two-convolution networks are timm's, which halve the input of each path.
"""

from typing import Unpack

from torch import nn

from cnnarch.blocks.conv import ConvNormAct, conv_7x7
from cnnarch.blocks.residual import ResidualSum
from cnnarch.blocks.selective_kernel import SelectiveKernel
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork, group_width_at
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnext import T_32X4D

__all__ = [
    "SKResNet",
    "skresnet18",
    "skresnet34",
    "skresnext50_32x4d",
]


class SKResidual(ResidualSum):
    """Basic block whose first convolution is a selective kernel with halved inputs.

    Args:
        in_channels: number of input channels; even.
        channels: number of channels in both convolutions and in the output.
        stride: stride of the selective kernel and of the shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        squeeze = max(channels // 8, 16)
        branch = nn.Sequential()
        branch.conv1 = SelectiveKernel(
            in_channels, channels, stride, squeeze_channels=squeeze, split=True
        )
        branch.conv2 = ConvNormAct(channels, channels, 3, act=None)
        super().__init__(branch, in_channels, channels, stride)


class SKBottleneck(ResidualSum):
    """ResNeXt's bottleneck with a selective kernel in the middle (Table 1).

    Args:
        in_channels: number of input channels.
        channels: width of ResNet's bottleneck; the output has 4 * channels.
        stride: stride of the selective kernel and of the shortcut.
        groups: number of groups in the selective kernel's convolutions, the paper's G.
        group_width: number of channels per group; None means channels / groups.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        groups: int = 1,
        group_width: int | None = None,
    ) -> None:
        width = channels if group_width is None else groups * group_width
        squeeze = max(width // 16, 32)  # eq. 4 with r = 16 and L = 32
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, width, 1)
        branch.conv = SelectiveKernel(width, width, stride, groups=groups, squeeze_channels=squeeze)
        branch.expand = ConvNormAct(width, 4 * channels, 1, act=None)
        super().__init__(branch, in_channels, 4 * channels, stride)


class SKResNet(ResidualNetwork):
    """ResNet or ResNeXt with selective kernels, which mix 3x3 and 5x5 kernels for each channel.

    Args:
        block: `SKResidual` (two convolutions) or `SKBottleneck` (1x1, selective kernel, 1x1).
        depths: number of blocks in each of the four stages.
        groups: number of groups in the bottlenecks' selective kernels, ResNeXt's cardinality.
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

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, or a stage's number of channels per
            group is not an integer.
    """

    def __init__(
        self,
        block: type[SKResidual | SKBottleneck],
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
    ) -> None:
        def make_block(in_channels: int, channels: int, stride: int) -> SKResidual | SKBottleneck:
            if issubclass(block, SKResidual):
                return block(in_channels, channels, stride)
            width = group_width_at(channels, widths[0], group_width)
            return block(in_channels, channels, stride, groups=groups, group_width=width)

        super().__init__(
            conv_7x7(in_channels, widths[0], small_images),
            make_block,
            widths,
            depths,
            names=resnet.ROWS,
            pool=resnet.first_pool(small_images),
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def skresnet18(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> SKResNet:
    """SK-ResNet-18: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("skresnet18", weights, SKResNet, SKResidual, resnet.DEPTHS_18, **options)


@builder
def skresnet34(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> SKResNet:
    """SK-ResNet-34: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("skresnet34", weights, SKResNet, SKResidual, resnet.DEPTHS_34, **options)


@builder
def skresnext50_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> SKResNet:
    """SKNet-50: bottlenecks with 32 groups of 4 channels, depths (3, 4, 6, 3)."""
    return build(
        "skresnext50_32x4d", weights, SKResNet, SKBottleneck, resnet.DEPTHS_50, *T_32X4D, **options
    )
