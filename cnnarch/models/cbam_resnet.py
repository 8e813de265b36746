"""CBAM-ResNet: branches that end with attention over channels and positions (Woo et al., 2018)."""

from functools import partial
from typing import Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.cbam import CBAM
from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.residual import Bottleneck, Residual
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet import ResNetOptions

__all__ = [
    "CBAMResNet",
    "cbam_resnet18",
    "cbam_resnet34",
    "cbam_resnet50",
    "cbam_resnet101",
]

REDUCTION = 16  # the map's number of channels divided by the squeeze's, the paper's r


def attention(channels: int, reduction: int) -> CBAM:
    """Return the paper's block, whose squeeze has `channels // reduction` channels."""
    return CBAM(channels, channels // reduction)


class CBAMResNet(ResidualNetwork):
    """ResNet with CBAM after the last norm of each branch.

    Args:
        block: `Residual` (two 3x3) or `Bottleneck` (1x1, 3x3, 1x1).
        depths: number of blocks in each of the four stages.
        reduction: the map's number of channels divided by the squeeze's, the paper's r.
        widths: width of the blocks in each stage; the stem has the first stage's width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a 3x3 stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        stride_in_1x1: whether a bottleneck has its stride in the first 1x1, as in the paper.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers, `reduction` exceeds a block's number
            of channels, or `stride_in_1x1` is set for blocks without a 1x1 convolution.
    """

    def __init__(
        self,
        block: type[Residual | Bottleneck],
        depths: tuple[int, ...],
        reduction: int = REDUCTION,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        check_integer("reduction", reduction, 1)
        make_block = partial(
            block,
            attention=partial(attention, reduction=reduction),
            **resnet.stride_options(block, stride_in_1x1),
        )
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
def cbam_resnet18(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> CBAMResNet:
    """CBAM-ResNet-18: two-convolution blocks, depths (2, 2, 2, 2)."""
    return build("cbam_resnet18", weights, CBAMResNet, Residual, resnet.DEPTHS_18, **options)


@builder
def cbam_resnet34(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> CBAMResNet:
    """CBAM-ResNet-34: two-convolution blocks, depths (3, 4, 6, 3)."""
    return build("cbam_resnet34", weights, CBAMResNet, Residual, resnet.DEPTHS_34, **options)


@builder
def cbam_resnet50(*, weights: WeightsSource = None, **options: Unpack[ResNetOptions]) -> CBAMResNet:
    """CBAM-ResNet-50: bottlenecks, depths (3, 4, 6, 3)."""
    return build("cbam_resnet50", weights, CBAMResNet, Bottleneck, resnet.DEPTHS_50, **options)


@builder
def cbam_resnet101(
    *, weights: WeightsSource = None, **options: Unpack[ResNetOptions]
) -> CBAMResNet:
    """CBAM-ResNet-101: bottlenecks, depths (3, 4, 23, 3)."""
    return build("cbam_resnet101", weights, CBAMResNet, Bottleneck, resnet.DEPTHS_101, **options)
