"""LeNet-5: convolutions and subsampling for digits (LeCun et al., 1998)."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, TypeVar, Unpack

from torch import nn

from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import xavier_uniform_
from cnnarch.blocks.lenet import RBF, PartialConv, ScaledTanh, Subsampling, fan_in_uniform_
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.facts.builders import builder

__all__ = ["LeNet", "LeNet1998", "LeNetBN", "lenet5", "lenet5_1998", "lenet5_bn"]

NAMES = ("C1", "S2", "C3", "S4", "C5")
TABLE_I = (  # maps of S2 that each of the 16 maps of C3 sees
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
POOLS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
PADDING = {32: 0, 28: 2}  # of C1, by input size: both give 28x28 maps
Key = TypeVar("Key")
Choice = TypeVar("Choice")


class LeNetOptions(ModelOptions, total=False):
    """Options of `lenet5`."""

    activation: Literal["tanh", "sigmoid", "relu"]
    pool: Literal["avg", "max"]
    image_size: Literal[28, 32]


class LeNet(ImageClassifier):
    """LeNet-5 as it is built today: every map connected, plain pooling, linear output.

    C5 is a convolution, as in the paper, so any larger image works too: its maps are averaged.
    Weights are drawn by Glorot's rule, which suits all three activations.

    Args:
        num_classes: width of the logits; 0 returns F6's output.
        in_channels: channels of the input image.
        activation: "tanh" is nearest to the paper's scaled tanh.
        pool: "avg" is nearest to the paper's subsampling.
        image_size: smallest side that fits, in pixels: 28 pads the image by two (MNIST as it
            is), 32 does not.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have stride 1, 2, 2, 4 and 4.

    Raises:
        ValueError: an option that is not among its choices.
    """

    def __init__(
        self,
        *,
        num_classes: int = 10,
        in_channels: int = 1,
        activation: Literal["tanh", "sigmoid", "relu"] = "tanh",
        pool: Literal["avg", "max"] = "avg",
        image_size: Literal[28, 32] = 32,
    ) -> None:
        act = _choose("activation", activation, ACTIVATIONS)
        make_pool = _choose("pool", pool, POOLS)
        padding = _choose("image_size", image_size, PADDING)
        conv = partial(_conv, norm=None, act=act)
        stem = conv(in_channels, 6, padding=padding)
        stages = [
            Stage(make_pool(2)),
            Stage(conv(6, 16)),
            Stage(make_pool(2)),
            Stage(conv(16, 120)),
        ]
        hidden = nn.Sequential(_linear(120, 84), act())
        head = ClassifierHead(84, num_classes, hidden=hidden, make_classifier=_linear)
        super().__init__(stem, stages, head, names=NAMES, min_input_size=image_size)


class LeNet1998(ImageClassifier):
    """LeNet-5 as it was built in 1998, with 60,000 trainable parameters.

    Subsampling is trained and squashed, C3 is connected by Table I, the squashing function is a
    scaled tanh, and classes are codes that F6 has to come near to. Weights are drawn from
    U(-2.4, 2.4) / fan-in (appendix A). Larger images work too: C5's maps are averaged.

    Args:
        num_classes: number of codes; 0 returns F6's output.
        in_channels: channels of the input image.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes): minus the squared distances to the codes
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        c1 = _conv(in_channels, 6, norm=None, act=ScaledTanh)
        c5 = _conv(16, 120, norm=None, act=ScaledTanh)
        f6 = nn.Linear(120, 84)
        for layer in (c1.conv, c5.conv, f6):
            fan_in_uniform_(layer.weight[0].numel(), *layer.parameters())
        stages = [
            Stage(Subsampling(6), ScaledTanh()),
            Stage(PartialConv(6, TABLE_I, 5), ScaledTanh()),
            Stage(Subsampling(16), ScaledTanh()),
            Stage(c5),
        ]
        hidden = nn.Sequential(f6, ScaledTanh())
        head = ClassifierHead(84, num_classes, hidden=hidden, make_classifier=RBF)
        super().__init__(c1, stages, head, names=NAMES, min_input_size=32)


class LeNetBN(ImageClassifier):
    """LeNet-5 with BatchNorm and sigmoid: the network on which BatchNorm is usually taught.

    BatchNorm follows every convolution and the hidden linear layer; no layer has a bias.
    Weights are drawn by Glorot's rule.

    Args:
        num_classes: width of the logits; 0 returns F6's output.
        in_channels: channels of the input image.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have stride 1, 2, 2, 4 and 4.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        conv = partial(_conv, norm=nn.BatchNorm2d, act=nn.Sigmoid)
        linear = partial(_linear, bias=False)
        stages = [
            Stage(nn.AvgPool2d(2)),
            Stage(conv(6, 16)),
            Stage(nn.AvgPool2d(2)),
            Stage(conv(16, 120, 4)),  # S4 is 4x4, without padding at 28 pixels
        ]
        hidden = nn.Sequential(linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid())
        head = ClassifierHead(84, num_classes, hidden=hidden, make_classifier=linear)
        super().__init__(conv(in_channels, 6), stages, head, names=NAMES, min_input_size=28)


def _conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 5,
    *,
    norm: type[nn.Module] | None,
    act: type[nn.Module],
    padding: int = 0,
) -> ConvNormAct:
    layer = ConvNormAct(in_channels, out_channels, kernel_size, padding=padding, norm=norm, act=act)
    xavier_uniform_(layer.conv)
    return layer


def _choose(option: str, value: Key, choices: Mapping[Key, Choice]) -> Choice:
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return choices[value]


def _linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_features, out_features, bias)
    xavier_uniform_(layer)
    return layer


@builder
def lenet5_bn(*, weights: WeightsSource = None, **options: Unpack[ModelOptions]) -> LeNetBN:
    """LeNet-5 with BatchNorm after every convolution and hidden linear layer, for 28 pixels."""
    return build("lenet5_bn", weights, LeNetBN, **options)


@builder
def lenet5_1998(*, weights: WeightsSource = None, **options: Unpack[ModelOptions]) -> LeNet1998:
    """LeNet-5 as in the paper: partial C3, trained subsampling, scaled tanh, RBF output."""
    return build("lenet5_1998", weights, LeNet1998, **options)


@builder
def lenet5(*, weights: WeightsSource = None, **options: Unpack[LeNetOptions]) -> LeNet:
    """LeNet-5 in its usual modern form; `lenet5_1998` is the paper's."""
    return build("lenet5", weights, LeNet, **options)
