"""ResNeXts for 32x32 images: three stages of grouped bottlenecks (Xie et al., 2016)."""

from typing import Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import Bottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import BranchOptions
from cnnarch.contract.residual import ResidualNetwork, Template, group_width_at
from cnnarch.facts.builders import builder
from cnnarch.models.resnet_cifar import ROWS

__all__ = [
    "CifarResNeXt",
    "resnext29_8x64d_cifar",
    "resnext29_16x64d_cifar",
]

T_8X64D = Template(8, 64)
T_16X64D = Template(16, 64)
N_29 = 3  # blocks per stage of the 29-layer networks in sec. 5.3
WIDTHS = (64, 128, 256)  # ResNet's bottlenecks in the stages with 32x32, 16x16 and 8x8 maps


class CifarResNeXt(ResidualNetwork):
    """ResNeXt for 32x32 images: a 3x3 stem and three stages of n bottlenecks (sec. 5.3).

    Args:
        n: number of blocks per stage; the network has 9n + 2 layers with weights.
        cardinality: number of groups in the 3x3 convolutions, the paper's C.
        group_width: number of channels per group in the first stage, the paper's d; doubled in
            each later stage.
        widths: width of ResNet's bottleneck in each stage; the stem has the first stage's width.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer, or a stage's number of channels per group is
            not an integer.
    """

    def __init__(
        self,
        n: int,
        cardinality: int,
        group_width: int,
        widths: tuple[int, ...] = WIDTHS,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
    ) -> None:
        check_integer("n", n, 1)

        def make_block(in_channels: int, channels: int, stride: int) -> Bottleneck:
            width = group_width_at(channels, widths[0], group_width)
            return Bottleneck(in_channels, channels, stride, groups=cardinality, group_width=width)

        super().__init__(
            ConvNormAct(in_channels, widths[0], 3),
            make_block,
            widths,
            (n, n, n),
            names=ROWS,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


@builder
def resnext29_8x64d_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarResNeXt:
    """ResNeXt-29 for 32x32 images: 8 groups of 64 channels."""
    return build("resnext29_8x64d_cifar", weights, CifarResNeXt, N_29, *T_8X64D, **options)


@builder
def resnext29_16x64d_cifar(
    *, weights: WeightsSource = None, **options: Unpack[BranchOptions]
) -> CifarResNeXt:
    """ResNeXt-29 for 32x32 images: 16 groups of 64 channels."""
    return build("resnext29_16x64d_cifar", weights, CifarResNeXt, N_29, *T_16X64D, **options)
