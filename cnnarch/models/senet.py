"""SE-ResNeXt and SENet: grouped bottlenecks that end in squeeze-and-excitation (Hu et al., 2017).

The appendix of the paper describes SENet-154; SENet-154.prototxt in the authors' repository
hujie-frank/SENet settles what it leaves open.
"""

from functools import partial
from typing import Unpack

from torch import nn

from cnnarch._cards import Stated, register
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.residual import Bottleneck, ResidualSum
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.contract.residual import residual_stages
from cnnarch.models import resnet
from cnnarch.models.se_resnet import (
    BIASES,
    ELEMENTWISE,
    PAPER,
    SEResNet,
    SEResNetOptions,
    first_pool,
    imagenet_figures,
    squeeze_excite,
)

__all__ = ["SENet", "se_resnext50_32x4d", "se_resnext101_32x4d", "senet154"]

STEM_WIDTHS = (64, 64, 128)  # of the three 3x3 convolutions that replace ResNet's 7x7
GROUPS, GROUP_WIDTH = 64, 4  # "64x4d"; a group's width doubles at each later stage


class SENetOptions(ModelOptions, total=False):
    """Options of SENet-154."""

    dropout: float
    small_images: bool
    ceil_pool: bool
    reduction: int


def downsampling(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The shortcut where the shape changes: 3x3 where it has a stride, else 1x1."""
    return ConvNormAct(in_channels, out_channels, 3 if stride > 1 else 1, stride, act=None)


class HalvedBottleneck(ResidualSum):
    """ResNeXt's bottleneck with half as many channels in its first 1x1 as in its 3x3.

    The 3x3 takes the stride; squeeze-and-excitation ends the branch.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)
    """

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, *, reduction: int = 16
    ) -> None:
        width = GROUPS * GROUP_WIDTH * channels // resnet.WIDTHS[0]
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, width // 2, 1)
        branch.conv = ConvNormAct(width // 2, width, 3, stride, groups=GROUPS)
        branch.expand = ConvNormAct(width, 4 * channels, 1, act=None)
        branch.attention = squeeze_excite(4 * channels, reduction)
        super().__init__(branch, in_channels, 4 * channels, stride, make_shortcut=downsampling)


class SENet(ImageClassifier):
    """Three 3x3 convolutions, four stages of halved SE-ResNeXt bottlenecks, dropout.

    Args:
        depths: number of blocks in each of the four stages.
        num_classes: width of the logits; 0 returns the pooled features.
        in_channels: channels of the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        small_images: stem of stride 1 and no max-pool, so that 32 pixels leave a 4x4 map.
        ceil_pool: whether the max-pool is Caffe's, as in the released model: no padding, sizes
            rounded up. False pads every side by a pixel, as torchvision's ResNets do.
        reduction: by how much the squeeze is narrower than the map, the paper's r.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have stride 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` does not name four stages of a block or more.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        small_images: bool = False,
        ceil_pool: bool = True,
        reduction: int = 16,
    ) -> None:
        first, second, third = STEM_WIDTHS
        stem = nn.Sequential(
            ConvNormAct(in_channels, first, 3, 1 if small_images else 2),
            ConvNormAct(first, second, 3),
            ConvNormAct(second, third, 3),
        )
        block = partial(HalvedBottleneck, reduction=reduction)
        pool = first_pool(small_images, ceil_pool)
        stages, channels = residual_stages(block, resnet.WIDTHS, depths, third, pool)
        head = ClassifierHead(channels, num_classes, dropout=dropout)
        least = 3 if ceil_pool and not small_images else 1  # the pool needs two pixels
        super().__init__(stem, stages, head, names=resnet.NAMES, min_input_size=least)


@register(
    PAPER,
    params=27_559_896,
    macs=4_232_994_816,
    departs=(BIASES,),
    stated=imagenet_figures("4.25B", "21.10", "5.49", ELEMENTWISE),
)
def se_resnext50_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]
) -> SEResNet:
    """SE-ResNeXt-50: bottlenecks of 32 groups, depths (3, 4, 6, 3)."""
    return build(
        "se_resnext50_32x4d", weights, SEResNet, Bottleneck, resnet.DEPTHS_50, 32, 4, **options
    )


@register(
    PAPER,
    params=48_955_416,
    macs=7_974_739_968,
    departs=(BIASES,),
    stated=imagenet_figures("8.00B", "20.70", "5.01", ELEMENTWISE),
)
def se_resnext101_32x4d(
    *, weights: WeightsSource = None, **options: Unpack[SEResNetOptions]
) -> SEResNet:
    """SE-ResNeXt-101: bottlenecks of 32 groups, depths (3, 4, 23, 3)."""
    return build(
        "se_resnext101_32x4d", weights, SEResNet, Bottleneck, resnet.DEPTHS_101, 32, 4, **options
    )


@register(
    PAPER,
    params=115_088_984,
    macs=20_688_363_520,
    departs=(BIASES,),
    stated=(
        Stated("top1_err", "18.68", "Table 8, single 224 crop"),
        Stated("top5_err", "4.47", "Table 8, single 224 crop"),
    ),
)
def senet154(*, weights: WeightsSource = None, **options: Unpack[SENetOptions]) -> SENet:
    """SENet-154: 64 groups, depths (3, 8, 36, 3)."""
    return build("senet154", weights, SENet, resnet.DEPTHS_152, **options)
