"""LeNet-5: convolutions and subsampling for digits (LeCun et al., 1998)."""

from functools import partial
from typing import Any, Literal, Unpack

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
TABLE_I = (  # maps of S2 that each of the 16 maps of C3 is connected to
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (4, 5, 0), (5, 0, 1)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 0), (4, 5, 0, 1), (5, 0, 1, 2)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
ACTIVATIONS = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "relu": nn.ReLU}
POOLS = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
PADDING = {32: 0, 28: 2}  # C1's padding for each image size; both give 28x28 maps


class LeNetOptions(ModelOptions, total=False):
    """Options of `lenet5`."""

    activation: Literal["tanh", "sigmoid", "relu"]
    pool: Literal["avg", "max"]
    image_size: Literal[28, 32]


class LeNet(ImageClassifier):
    """LeNet-5 as it is usually built today: full convolutions, standard pooling, linear output.

    C5 is a convolution, as in the paper, and its maps are averaged, so larger images also work.
    Weights use Glorot initialization, which suits all three activations.

    Args:
        num_classes: number of logits; 0 returns the output of F6.
        in_channels: number of channels in the input image.
        activation: "tanh" is closest to the paper's scaled tanh.
        pool: "avg" is closest to the paper's subsampling.
        image_size: minimum side length of the images, in pixels. With 28 (MNIST's size), the image
            is padded by two pixels; with 32, it is not padded.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 1, 2, 2, 4 and 4.

    Raises:
        ValueError: an option has an unknown value.
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
        act, make_pool = ACTIVATIONS[activation], POOLS[pool]
        conv = partial(_conv, norm=None, act=act)
        stem = conv(in_channels, 6, padding=PADDING[image_size])
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
    """LeNet-5 as published in 1998, with 60,000 trainable parameters.

    Subsampling is trainable and followed by the activation, a scaled tanh. C3 is connected to the
    maps listed in Table I. Each class has a code, and its logit depends on the distance between
    F6's output and this code. Weights are drawn from U(-2.4, 2.4) / fan-in (appendix A). C5's maps
    are averaged, so larger images also work.

    Args:
        num_classes: number of codes; 0 returns the output of F6.
        in_channels: number of channels in the input image.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes): negative squared distances to the codes
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
    """LeNet-5 with BatchNorm and sigmoid, a common example for teaching BatchNorm.

    BatchNorm follows each convolution and the hidden linear layer. No layer has a bias. Weights
    use Glorot initialization.

    Args:
        num_classes: number of logits; 0 returns the output of F6.
        in_channels: number of channels in the input image.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 1, 2, 2, 4 and 4.
    """

    def __init__(self, *, num_classes: int = 10, in_channels: int = 1) -> None:
        conv = partial(_conv, norm=nn.BatchNorm2d, act=nn.Sigmoid)
        linear = partial(_linear, bias=False)
        stages = [
            Stage(nn.AvgPool2d(2)),
            Stage(conv(6, 16)),
            Stage(nn.AvgPool2d(2)),
            Stage(conv(16, 120, 4)),  # without padding, S4 is 4x4 at 28 pixels
        ]
        hidden = nn.Sequential(linear(120, 84), nn.BatchNorm1d(84), nn.Sigmoid())
        head = ClassifierHead(84, num_classes, hidden=hidden, make_classifier=linear)
        super().__init__(conv(in_channels, 6), stages, head, names=NAMES, min_input_size=28)


def _conv(
    in_channels: int, channels: int, kernel_size: int = 5, padding: int = 0, **options: Any
) -> ConvNormAct:
    layer = ConvNormAct(in_channels, channels, kernel_size, padding=padding, **options)
    xavier_uniform_(layer.conv)
    return layer


def _linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    return xavier_uniform_(nn.Linear(in_features, out_features, bias))


@builder
def lenet5_bn(*, weights: WeightsSource = None, **options: Unpack[ModelOptions]) -> LeNetBN:
    """LeNet-5 with BatchNorm after every convolution and the hidden layer, for 28x28 images."""
    return build("lenet5_bn", weights, LeNetBN, **options)


@builder
def lenet5_1998(*, weights: WeightsSource = None, **options: Unpack[ModelOptions]) -> LeNet1998:
    """LeNet-5 as in the paper: partial C3, trainable subsampling, scaled tanh, RBF output."""
    return build("lenet5_1998", weights, LeNet1998, **options)


@builder
def lenet5(*, weights: WeightsSource = None, **options: Unpack[LeNetOptions]) -> LeNet:
    """LeNet-5 in its usual modern form; `lenet5_1998` follows the paper."""
    return build("lenet5", weights, LeNet, **options)
