"""Res2Net: bottlenecks whose 3x3 convolution is split into a hierarchy (Gao et al., 2019).

The first block of each stage follows the authors' code (repository gasvn/Res2Net).
"""

from typing import NamedTuple, Unpack

from cnnarch.blocks.conv import conv_7x7
from cnnarch.blocks.res2net import Res2NetBottleneck
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet

__all__ = [
    "Res2Net",
    "res2net50_14w_8s",
    "res2net50_26w_4s",
    "res2net50_26w_6s",
    "res2net50_26w_8s",
    "res2net50_48w_2s",
    "res2net101_26w_4s",
    "res2next50",
]


class Res2NetSetting(NamedTuple):
    """A setting of Table 3, such as "26w x 4s".

    Args:
        width: channels of a 3x3 convolution in conv2_x, in each group; larger in later stages.
        scale: number of subsets of the channels, each but the last with a 3x3 convolution.
        cardinality: number of groups in the 3x3 convolutions.
    """

    width: int
    scale: int
    cardinality: int = 1


S_14W_8S = Res2NetSetting(14, 8)
S_26W_4S = Res2NetSetting(26, 4)
S_26W_6S = Res2NetSetting(26, 6)
S_26W_8S = Res2NetSetting(26, 8)
S_48W_2S = Res2NetSetting(48, 2)
S_4W_8C_4S = Res2NetSetting(4, 4, 8)


class Res2Net(ResidualNetwork):
    """ResNet with a hierarchy of small 3x3 convolutions in each bottleneck.

    Args:
        depths: number of blocks in each of the four stages.
        setting: width, scale and cardinality of the 3x3 convolutions. The width is that of
            conv2_x and grows in proportion to ResNet's.
        widths: width of ResNet's bottleneck in each stage; the stem has the first stage's width.
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
        ValueError: `depths` is not four positive integers, or a number of `setting` is out of
            range.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        setting: Res2NetSetting,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
    ) -> None:
        def make_block(in_channels: int, channels: int, stride: int) -> Res2NetBottleneck:
            return Res2NetBottleneck(
                in_channels,
                channels,
                stride,
                scale=setting.scale,
                group_width=setting.width * channels // widths[0],
                groups=setting.cardinality,
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
def res2net50_26w_4s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-50: 4 subsets of 26 channels, depths (3, 4, 6, 3)."""
    return build("res2net50_26w_4s", weights, Res2Net, resnet.DEPTHS_50, S_26W_4S, **options)


@builder
def res2net50_26w_6s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-50: 6 subsets of 26 channels, depths (3, 4, 6, 3)."""
    return build("res2net50_26w_6s", weights, Res2Net, resnet.DEPTHS_50, S_26W_6S, **options)


@builder
def res2net50_26w_8s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-50: 8 subsets of 26 channels, depths (3, 4, 6, 3)."""
    return build("res2net50_26w_8s", weights, Res2Net, resnet.DEPTHS_50, S_26W_8S, **options)


@builder
def res2net50_48w_2s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-50: 2 subsets of 48 channels, depths (3, 4, 6, 3)."""
    return build("res2net50_48w_2s", weights, Res2Net, resnet.DEPTHS_50, S_48W_2S, **options)


@builder
def res2net50_14w_8s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-50: 8 subsets of 14 channels, depths (3, 4, 6, 3)."""
    return build("res2net50_14w_8s", weights, Res2Net, resnet.DEPTHS_50, S_14W_8S, **options)


@builder
def res2net101_26w_4s(
    *, weights: WeightsSource = None, **options: Unpack[ResidualOptions]
) -> Res2Net:
    """Res2Net-101: 4 subsets of 26 channels, depths (3, 4, 23, 3)."""
    return build("res2net101_26w_4s", weights, Res2Net, resnet.DEPTHS_101, S_26W_4S, **options)


@builder
def res2next50(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> Res2Net:
    """Res2NeXt-50: 4 subsets of 8 groups of 4 channels, depths (3, 4, 6, 3)."""
    return build("res2next50", weights, Res2Net, resnet.DEPTHS_50, S_4W_8C_4S, **options)
