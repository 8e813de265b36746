"""The stem of Inception v3, v4 and Inception-ResNet, and the sizes of their maps."""

from torch import nn

from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.factorized import ConvRow, conv_bn_relu

STEM_CHANNELS = 64
"""Number of channels of the stem's output."""


def inception_stem(in_channels: int, small_images: bool) -> nn.Sequential:
    """Return three 3x3 convolutions, of which only the last is padded.

    Args:
        in_channels: number of channels in the input image.
        small_images: whether the first convolution has stride 1 instead of 2.
    """
    stem = nn.Sequential()
    stem.conv1 = conv_bn_relu(in_channels, ConvRow(32, 3, early_stride(small_images), valid=True))
    stem.conv2 = conv_bn_relu(32, ConvRow(32, 3, valid=True))
    stem.conv3 = conv_bn_relu(32, ConvRow(STEM_CHANNELS, 3))
    return stem


def early_stride(small_images: bool) -> int:
    """Return the stride of the first convolution and of the two reductions after the stem."""
    return 1 if small_images else 2


def smallest_side(small_images: bool) -> int:
    """Return the smallest image side, in pixels, whose last map has one pixel.

    Going backwards, two unpadded 3x3 layers with stride 2 need 3 and 7 pixels. The layers before
    them are unpadded and 3x3, too: a reduction, a convolution, a reduction and two convolutions of
    the stem, the first of which has the same stride as the reductions.
    """
    stride, side = early_stride(small_images), 7
    for each in (stride, 1, stride, 1, stride):
        side = (side - 1) * each + 3
    return side


def conv_3b_and_4a() -> tuple[ConvNormAct, ConvNormAct]:
    """Return the two convolutions after the first pool of Inception v3 and Inception-ResNet."""
    return conv_bn_relu(STEM_CHANNELS, ConvRow(80)), conv_bn_relu(80, ConvRow(192, 3, valid=True))
