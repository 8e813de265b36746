"""ConvNet: a minimal network for first experiments, two convolutions with BatchNorm."""

from typing import Unpack

from torch import nn

from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.facts.builders import builder

__all__ = ["ConvNet", "convnet"]

NAMES = ("conv1", "stage1", "stage2")


class ConvNet(ImageClassifier):
    """Two blocks of 5x5 convolution, BatchNorm, ReLU and 2x2 max-pool, then one linear layer.

    An average pool to 7x7 before the linear layer has no effect at 28 pixels and supports other
    sizes. Weights use He initialization.

    Args:
        num_classes: number of logits; 0 returns the flattened map.
        in_channels: number of channels in the input image.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 1, 2 and 4.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        stem = ConvNormAct(in_channels, 16, 5, bias=True)
        stages = [
            Stage(nn.MaxPool2d(2)),
            Stage(ConvNormAct(16, 32, 5, bias=True), nn.MaxPool2d(2)),
        ]
        head = ClassifierHead(32 * 7 * 7, num_classes, pool=AdaptiveAvgPool2d(7))
        super().__init__(stem, stages, head, names=NAMES, min_input_size=4)


@builder
def convnet(*, weights: WeightsSource = None, **options: Unpack[ModelOptions]) -> ConvNet:
    """A first network: two convolutions with 16 and 32 channels, 29,034 parameters."""
    return build("convnet", weights, ConvNet, **options)
