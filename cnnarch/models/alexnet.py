"""AlexNet: five convolutions and three fully connected layers (Krizhevsky et al., 2012)."""

from functools import partial
from typing import NamedTuple, Unpack

import torch
from torch import nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.normalization import LRN
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.facts.builders import builder

__all__ = ["AlexNet", "alexnet", "alexnet_owt"]

NAMES = ("conv1", "pool1", "pool2", "pool5")
HIDDEN = 4096  # units of each hidden fully connected layer


class Form(NamedTuple):
    """What tells the two papers' networks apart.

    Args:
        conv1: number of kernels of the first convolution; `conv2` to `conv5` of the others.
        groups: towers that conv2, conv4 and conv5 stay inside.
        lrn: whether local response normalisation follows conv1 and conv2.
        padding: of the first convolution, in pixels.
    """

    conv1: int
    conv2: int
    conv3: int
    conv4: int
    conv5: int
    groups: int
    lrn: bool
    padding: int


TWO_TOWERS = Form(96, 256, 384, 384, 256, groups=2, lrn=True, padding=0)
ONE_TOWER = Form(64, 192, 384, 256, 256, groups=1, lrn=False, padding=2)


class AlexNetOptions(ModelOptions, total=False):
    """Options of the AlexNet networks."""

    groups: int | None
    dropout: float


class AlexNet(ImageClassifier):
    """AlexNet: each of conv1, conv2 and conv5 ends in an overlapping 3x3 max-pool.

    Weights are drawn from N(0, 0.01); biases begin at 1 in conv2, conv4, conv5 and the hidden
    fully connected layers, and at 0 elsewhere (2012, sec. 5). A pool to 6x6 before the fully
    connected layers changes nothing at the paper's size and lets other sizes in.

    Args:
        form: widths and the rest that the two papers' networks differ in.
        hidden: units of each hidden fully connected layer.
        num_classes: width of the logits; 0 returns fc7's output.
        in_channels: channels of the input image.
        groups: towers of conv2, conv4 and conv5; None means the form's, 1 connects all maps.
        dropout: probability of zeroing an output of fc6 or fc7, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have stride 4, 8, 16 and 32.

    Raises:
        ValueError: `dropout` is out of range, or `groups` does not divide the widths.
    """

    def __init__(
        self,
        form: Form,
        hidden: int = HIDDEN,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        check_probability("dropout", dropout)
        towers = form.groups if groups is None else groups
        check_integer("groups", towers, 1)
        if any(width % towers for width in form[:5]):
            raise ValueError(f"groups must divide the widths {form[:5]}, got {groups}")
        stem = _conv(in_channels, form.conv1, 11, 4, padding=form.padding)
        conv2 = _conv(form.conv1, form.conv2, 5, groups=towers, bias=1.0)
        if form.lrn:  # after ReLU, before the pool
            stem.lrn = LRN(5, alpha=1e-4, beta=0.75, k=2.0)
            conv2.lrn = LRN(5, alpha=1e-4, beta=0.75, k=2.0)
        pool = partial(nn.MaxPool2d, 3, 2)
        stages = [
            Stage(pool()),
            Stage(conv2, pool()),
            Stage(
                _conv(form.conv2, form.conv3, 3),
                _conv(form.conv3, form.conv4, 3, groups=towers, bias=1.0),
                _conv(form.conv4, form.conv5, 3, groups=towers, bias=1.0),
                pool(),
            ),
        ]
        head = _head(form.conv5, hidden, num_classes, dropout)
        # Three pools of 3 pixels and stride 2 need 15 rows: 14 steps of 4 and a kernel of 11.
        super().__init__(stem, stages, head, names=NAMES, min_input_size=67 - 2 * form.padding)
        self.options |= {"groups": towers}  # the value that None selects


def _conv(
    in_channels: int,
    channels: int,
    kernel_size: int,
    stride: int = 1,
    *,
    padding: Padding | int = "symmetric",
    groups: int = 1,
    bias: float = 0.0,
) -> ConvNormAct:
    layer = ConvNormAct(
        in_channels,
        channels,
        kernel_size,
        stride,
        groups=groups,
        padding=padding,
        norm=None,
    )
    normal_(layer.conv, 0.01, bias)
    return layer


def _head(channels: int, units: int, num_classes: int, dropout: float) -> ClassifierHead:
    hidden = nn.Sequential()
    hidden.fc6 = _linear(channels * 6 * 6, units, 1.0)
    hidden.act6 = nn.ReLU()
    hidden.dropout = nn.Dropout(dropout)
    hidden.fc7 = _linear(units, units, 1.0)
    hidden.act7 = nn.ReLU()
    pool = AdaptiveAvgPool2d(6)
    return ClassifierHead(
        units, num_classes, pool=pool, hidden=hidden, dropout=dropout, make_classifier=_linear
    )


def _linear(in_features: int, out_features: int, bias: float = 0.0) -> nn.Linear:
    # Without PyTorch's own draw, which would double the time to build 59 million weights.
    layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
        nn.Linear, in_features, out_features, device=torch.get_default_device()
    )
    normal_(layer, 0.01, bias)
    return layer


@builder
def alexnet_owt(*, weights: WeightsSource = None, **options: Unpack[AlexNetOptions]) -> AlexNet:
    """AlexNet in one tower, 64 to 384 kernels wide: what torchvision calls alexnet."""
    return build("alexnet_owt", weights, AlexNet, ONE_TOWER, **options)


@builder
def alexnet(*, weights: WeightsSource = None, **options: Unpack[AlexNetOptions]) -> AlexNet:
    """AlexNet of 2012: two towers as groups, local response normalisation, for 227 pixels."""
    return build("alexnet", weights, AlexNet, TWO_TOWERS, **options)
