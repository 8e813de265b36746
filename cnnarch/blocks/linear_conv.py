"""A convolution without bias, norm and activation, for blocks in another order than conv-norm."""

from torch import nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import he_normal_


def linear_conv(
    in_channels: int,
    channels: int,
    kernel_size: int,
    stride: int = 1,
    conv: type[nn.Conv2d] = nn.Conv2d,
    groups: int = 1,
) -> nn.Conv2d:
    """Return a padded convolution without bias, for use before a norm or a sum."""
    check_integer("in_channels", in_channels, 1)
    check_integer("channels", channels, 1)
    shape = (in_channels, channels, kernel_size, stride, kernel_size // 2)
    return he_normal_(conv(*shape, groups=groups, bias=False))
