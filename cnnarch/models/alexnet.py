"""AlexNet: five convolutions and three fully connected layers (Krizhevsky et al., 2012)."""

from functools import partial
from typing import Any, NamedTuple, Unpack

import torch
from torch import nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.normalization import LRN
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import DropoutOptions
from cnnarch.facts.builders import builder

__all__ = ["AlexNet", "alexnet", "alexnet_owt"]

NAMES = ("conv1", "pool1", "pool2", "pool5")
HIDDEN = 4096  # units in each hidden fully connected layer


class AlexNetConfig(NamedTuple):
    """Differences between the networks of the two papers.

    Args:
        conv1: number of kernels in the first convolution; likewise for `conv2` to `conv5`.
        groups: number of groups (the paper's towers) in conv2, conv4 and conv5.
        lrn: whether local response normalization follows conv1 and conv2.
        padding: padding of the first convolution, in pixels.
    """

    conv1: int
    conv2: int
    conv3: int
    conv4: int
    conv5: int
    groups: int
    lrn: bool
    padding: int


TWO_TOWERS = AlexNetConfig(96, 256, 384, 384, 256, groups=2, lrn=True, padding=0)
ONE_TOWER = AlexNetConfig(64, 192, 384, 256, 256, groups=1, lrn=False, padding=2)


class AlexNetOptions(DropoutOptions, total=False):
    """Options of the AlexNet networks."""

    groups: int | None


class AlexNet(ImageClassifier):
    """AlexNet: an overlapping 3x3 max-pool follows conv1, conv2 and conv5.

    Weights are drawn from N(0, 0.01). The initial biases are 1 in conv2, conv4, conv5 and the
    hidden fully connected layers, and 0 elsewhere (2012, sec. 5). An average pool to 6x6 before
    the fully connected layers has no effect at the paper's image size and supports other sizes.

    Args:
        config: widths and other differences between the two networks.
        hidden: number of units in each hidden fully connected layer.
        num_classes: number of logits; 0 returns the output of fc7.
        in_channels: number of channels in the input image.
        groups: number of groups in conv2, conv4 and conv5; None means the value in `config`, and 1
            connects all maps.
        dropout: probability of zeroing an output of fc6 or fc7, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `dropout` is out of range, or `groups` does not divide the widths.
    """

    def __init__(
        self,
        config: AlexNetConfig,
        hidden: int = HIDDEN,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        check_probability("dropout", dropout)
        towers = config.groups if groups is None else groups
        check_integer("groups", towers, 1)
        if any(width % towers for width in config[:5]):
            raise ValueError(f"groups must divide the widths {config[:5]}, got {groups}")
        stem = _conv(in_channels, config.conv1, 11, 4, padding=config.padding)
        conv2 = _conv(config.conv1, config.conv2, 5, groups=towers, bias=1.0)
        if config.lrn:  # after ReLU, before the pool
            stem.lrn = LRN(5, alpha=1e-4, beta=0.75, k=2.0)
            conv2.lrn = LRN(5, alpha=1e-4, beta=0.75, k=2.0)
        pool = partial(nn.MaxPool2d, 3, 2)
        stages = [
            Stage(pool()),
            Stage(conv2, pool()),
            Stage(
                _conv(config.conv2, config.conv3, 3),
                _conv(config.conv3, config.conv4, 3, groups=towers, bias=1.0),
                _conv(config.conv4, config.conv5, 3, groups=towers, bias=1.0),
                pool(),
            ),
        ]
        head = _head(config.conv5, hidden, num_classes, dropout)
        # Three 3x3 pools with stride 2 need 15 rows, for which conv1 needs 14 * 4 + 11 = 67.
        super().__init__(stem, stages, head, names=NAMES, min_input_size=67 - 2 * config.padding)
        self.options |= {"groups": towers}  # the effective value, not None


def _conv(
    in_channels: int,
    channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    bias: float = 0.0,
    **options: Any,
) -> ConvNormAct:
    layer = ConvNormAct(in_channels, channels, kernel_size, stride, norm=None, **options)
    normal_(layer.conv, 0.01, bias)
    return layer


def _head(channels: int, units: int, num_classes: int, dropout: float) -> ClassifierHead:
    hidden = nn.Sequential()
    hidden.fc6 = _linear(channels * 6 * 6, units, bias=1.0)
    hidden.act6 = nn.ReLU()
    hidden.dropout = nn.Dropout(dropout)
    hidden.fc7 = _linear(units, units, bias=1.0)
    hidden.act7 = nn.ReLU()
    pool = AdaptiveAvgPool2d(6)
    return ClassifierHead(
        units, num_classes, pool=pool, hidden=hidden, dropout=dropout, make_classifier=_linear
    )


def _linear(in_features: int, out_features: int, bias: float = 0.0) -> nn.Linear:
    # Skip PyTorch's initialization, which would double the time needed for 59 million weights.
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, in_features, out_features, device=torch.get_default_device()
    )
    return normal_(layer, 0.01, bias)


@builder
def alexnet_owt(*, weights: WeightsSource = None, **options: Unpack[AlexNetOptions]) -> AlexNet:
    """AlexNet with one tower and 64 to 384 kernels per layer, the same as torchvision's alexnet."""
    return build("alexnet_owt", weights, AlexNet, ONE_TOWER, **options)


@builder
def alexnet(*, weights: WeightsSource = None, **options: Unpack[AlexNetOptions]) -> AlexNet:
    """The 2012 AlexNet: two towers as groups, local response normalization, 227x227 images."""
    return build("alexnet", weights, AlexNet, TWO_TOWERS, **options)
