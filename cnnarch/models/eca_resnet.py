"""ECA-ResNet: ResNet-D whose branches end with efficient channel attention (Wang et al., 2019)."""

from typing import Unpack

from cnnarch.blocks.efficient_channel_attention import ECA
from cnnarch.blocks.residual import Bottleneck
from cnnarch.blocks.shortcut import pooled_projection
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import ResidualOptions
from cnnarch.facts.builders import builder
from cnnarch.models import resnet
from cnnarch.models.resnet_d import ResNetD

__all__ = ["ecaresnet50d", "ecaresnet101d"]

ROW = (pooled_projection, ECA)  # the shortcut and the attention of the networks' blocks


@builder
def ecaresnet50d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ECA-ResNet-50-D: depths (3, 4, 6, 3)."""
    return build("ecaresnet50d", weights, ResNetD, Bottleneck, resnet.DEPTHS_50, *ROW, **options)


@builder
def ecaresnet101d(*, weights: WeightsSource = None, **options: Unpack[ResidualOptions]) -> ResNetD:
    """ECA-ResNet-101-D: depths (3, 4, 23, 3)."""
    return build("ecaresnet101d", weights, ResNetD, Bottleneck, resnet.DEPTHS_101, *ROW, **options)
