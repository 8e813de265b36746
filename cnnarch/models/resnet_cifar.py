"""ResNets for 32x32 images: 6n + 2 layers, shortcuts without parameters (He et al., 2015)."""

from functools import partial
from typing import Literal, Unpack

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.conv import ConvNormAct
from cnnarch.blocks.residual import MakeAttention, Residual
from cnnarch.blocks.shortcut import ZeroPadShortcut, projection
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.options import BranchOptions, DropoutOptions
from cnnarch.contract.residual import ResidualNetwork
from cnnarch.facts.builders import builder
from cnnarch.models.resnet import PlainBlock

__all__ = [
    "CifarPlainNet",
    "CifarResNet",
    "plain20_cifar",
    "plain56_cifar",
    "resnet20_cifar",
    "resnet32_cifar",
    "resnet44_cifar",
    "resnet56_cifar",
    "resnet110_cifar",
    "resnet1202_cifar",
]

ROWS = ("conv1", "32x32", "16x16", "8x8")  # the columns of the table in sec. 4.2 are map sizes
WIDTHS = (16, 32, 64)
SHORTCUTS = {"A": ZeroPadShortcut, "B": projection}


class CifarResNetOptions(BranchOptions, total=False):
    """Options of the residual networks for 32x32 images."""

    shortcut: Literal["A", "B"]


class CifarResNet(ResidualNetwork):
    """Residual network for 32x32 images: a 3x3 stem and three stages of n basic blocks.

    Args:
        n: number of blocks per stage; the network has 6n + 2 layers with weights.
        attention: creates each residual branch's last layer from its number of channels; None
            omits it.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        drop_path: probability of dropping the last block's branch for an image in training, in
            [0, 1); it increases linearly from 0 in the first block.
        zero_init_residual: whether the last layer of each branch starts at zero, so that each
            block initially returns only its shortcut.
        shortcut: the shortcut in blocks that change the shape. "A" subsamples and pads with zeros,
            as in the paper; "B" is a 1x1 convolution, as in most checkpoints for these networks.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer, or `shortcut` is unknown.
    """

    def __init__(
        self,
        n: int,
        attention: MakeAttention | None = None,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        zero_init_residual: bool = False,
        shortcut: Literal["A", "B"] = "A",
    ) -> None:
        check_integer("n", n, 1)
        block = partial(Residual, make_shortcut=SHORTCUTS[shortcut], attention=attention)
        super().__init__(
            ConvNormAct(in_channels, WIDTHS[0], 3),
            block,
            WIDTHS,
            (n, n, n),
            names=ROWS,
            num_classes=num_classes,
            dropout=dropout,
            drop_path=drop_path,
            zero_init_residual=zero_init_residual,
        )


class CifarPlainNet(ResidualNetwork):
    """`CifarResNet` without shortcuts, the paper's baseline.

    Args:
        n: number of blocks per stage; the network has 6n + 2 layers with weights.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 1, 2 and 4.

    Raises:
        ValueError: `n` is not a positive integer.
    """

    def __init__(
        self, n: int, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        check_integer("n", n, 1)
        super().__init__(
            ConvNormAct(in_channels, WIDTHS[0], 3),
            PlainBlock,
            WIDTHS,
            (n, n, n),
            names=ROWS,
            num_classes=num_classes,
            dropout=dropout,
        )


@builder
def resnet20_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-20 for 32x32 images: n = 3."""
    return build("resnet20_cifar", weights, CifarResNet, 3, **options)


@builder
def resnet32_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-32 for 32x32 images: n = 5."""
    return build("resnet32_cifar", weights, CifarResNet, 5, **options)


@builder
def resnet44_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-44 for 32x32 images: n = 7."""
    return build("resnet44_cifar", weights, CifarResNet, 7, **options)


@builder
def resnet56_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-56 for 32x32 images: n = 9."""
    return build("resnet56_cifar", weights, CifarResNet, 9, **options)


@builder
def resnet110_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-110 for 32x32 images: n = 18."""
    return build("resnet110_cifar", weights, CifarResNet, 18, **options)


@builder
def resnet1202_cifar(
    *, weights: WeightsSource = None, **options: Unpack[CifarResNetOptions]
) -> CifarResNet:
    """ResNet-1202 for 32x32 images: n = 200."""
    return build("resnet1202_cifar", weights, CifarResNet, 200, **options)


@builder
def plain20_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarPlainNet:
    """Plain-20 for 32x32 images: ResNet-20 without shortcuts."""
    return build("plain20_cifar", weights, CifarPlainNet, 3, **options)


@builder
def plain56_cifar(
    *, weights: WeightsSource = None, **options: Unpack[DropoutOptions]
) -> CifarPlainNet:
    """Plain-56 for 32x32 images: ResNet-56 without shortcuts."""
    return build("plain56_cifar", weights, CifarPlainNet, 9, **options)
