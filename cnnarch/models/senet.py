"""SENet: narrower ResNeXt bottlenecks with squeeze-and-excitation (Hu et al., 2017).

The paper's appendix describes SENet-154. The remaining details come from SENet-154.prototxt in the
authors' repository hujie-frank/SENet.
"""

from functools import partial
from typing import Unpack

from torch import nn

from cnnarch.blocks.conv import ConvNormAct, deep_stem
from cnnarch.blocks.residual import ResidualSum
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.se_resnet import SENetOptions, first_pool, squeeze_excite

__all__ = ["SENet", "senet154"]

GROUPS = 64  # "64x4d": 4 channels per group in conv2_x, doubled in each later stage


def senet_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Return the shortcut for a changed shape: a 3x3 convolution if strided, otherwise a 1x1."""
    return ConvNormAct(in_channels, out_channels, 3 if stride > 1 else 1, stride, act=None)


class HalvedBottleneck(ResidualSum):
    """ResNeXt's bottleneck with half as many channels in its first 1x1 as in its 3x3.

    The 3x3 convolution is four times as wide as ResNet's and has the block's stride. The branch
    ends with squeeze-and-excitation.

    Args:
        in_channels: number of input channels.
        channels: width of ResNet's bottleneck; the output has 4 * channels.
        stride: stride of the block.
        groups: number of groups in the 3x3 convolution.
        reduction: ratio of the map's number of channels to that of the squeeze.

    Shape:
        (N, in_channels, H, W) -> (N, 4 * channels, H / stride, W / stride)
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        groups: int = GROUPS,
        reduction: int = 16,
    ) -> None:
        width = 4 * channels
        branch = nn.Sequential()
        branch.reduce = ConvNormAct(in_channels, width // 2, 1)
        branch.conv = ConvNormAct(width // 2, width, 3, stride, groups=groups)
        branch.expand = ConvNormAct(width, 4 * channels, 1, act=None)
        branch.attention = squeeze_excite(4 * channels, reduction)
        super().__init__(branch, in_channels, 4 * channels, stride, make_shortcut=senet_shortcut)


class SENet(ResidualNetwork):
    """SENet: a stem of three 3x3 convolutions, four stages of halved bottlenecks, dropout.

    Args:
        depths: number of blocks in each of the four stages.
        groups: number of groups in the 3x3 convolutions.
        widths: width of ResNet's bottleneck in each stage. The stem has the first stage's width,
            except for its last convolution, which is twice as wide.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        small_images: use a stem with stride 1 and no max-pool; 32x32 images give 4x4 maps.
        ceil_pool: whether the max-pool works as in Caffe and in the released model, without
            padding and with sizes rounded up. False pads each side by one pixel, as in
            torchvision's ResNets.
        reduction: the map's number of channels divided by the squeeze's, the paper's r.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `depths` is not four positive integers.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        groups: int = GROUPS,
        widths: tuple[int, ...] = resnet.WIDTHS,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.2,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        small_images: bool = False,
        ceil_pool: bool = True,
        reduction: int = 16,
    ) -> None:
        width = widths[0]
        super().__init__(
            deep_stem(in_channels, (width, width, 2 * width), small_images),
            partial(HalvedBottleneck, groups=groups, reduction=reduction),
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


@builder
def senet154(*, weights: WeightsSource = None, **options: Unpack[SENetOptions]) -> SENet:
    """SENet-154: 64 groups, depths (3, 8, 36, 3)."""
    return build("senet154", weights, SENet, resnet.DEPTHS_152, **options)
