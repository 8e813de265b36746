"""FasterNet: 3x3 convolutions of a quarter of the channels, for low latency (Chen et al., 2023)."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.fasternet import FasterNetBlock
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.stochastic_depth import drop_path_rates
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = [
    "FasterNet",
    "fasternet_l",
    "fasternet_m",
    "fasternet_s",
    "fasternet_t0",
    "fasternet_t1",
    "fasternet_t2",
]

NAMES = ("embedding", "stage1", "stage2", "stage3", "stage4")
HIDDEN = 1280
DOWNSAMPLING = 4 * 2 * 2 * 2  # the embedding, and three merging layers


class FasterNetRow(NamedTuple):
    """A variant: its number of channels c, of blocks b in each stage, and its activation."""

    channels: int
    depths: tuple[int, ...]
    act: Callable[[], nn.Module]


T0 = FasterNetRow(40, (1, 2, 8, 2), nn.GELU)
T1 = FasterNetRow(64, (1, 2, 8, 2), nn.GELU)
T2 = FasterNetRow(96, (1, 2, 8, 2), nn.ReLU)
S = FasterNetRow(128, (1, 2, 13, 2), nn.ReLU)
M = FasterNetRow(144, (3, 4, 18, 3), nn.ReLU)
L = FasterNetRow(192, (3, 4, 18, 3), nn.ReLU)


class FasterNetOptions(CommonOptions, total=False):
    """Options of the FasterNets."""

    drop_path: float


class FasterNet(ImageClassifier):
    """FasterNet: a stem of 4x4 patches, four stages of blocks, pool, hidden layer, classifier.

    Each stage after the first starts with a 2x2 convolution with stride 2 that doubles the number
    of channels, and BatchNorm. Weights are drawn from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels in the first stage, at least 4. Each later stage doubles it.
        depths: number of blocks in each stage.
        act: creates an activation.
        hidden: number of units in the layer between the pool and the classifier.
        num_classes: number of logits; 0 returns the output of the hidden layer.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing an output of the hidden layer, in [0, 1).
        drop_path: probability of dropping the branch of the last block for an image in training,
            in [0, 1). The probability increases linearly from 0 in the first block.
        small_images: move the stem's kernel by one pixel instead of four; 32x32 images give 4x4
            maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: a count is out of range, `depths` does not have four entries, a stage is empty,
            or `dropout` or `drop_path` is out of range.
    """

    def __init__(
        self,
        channels: int,
        depths: Sequence[int],
        act: Callable[[], nn.Module] = nn.ReLU,
        hidden: int = HIDDEN,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        small_images: bool = False,
    ) -> None:
        check_integer("channels", channels, 4)
        check_integer("hidden", hidden, 1)
        check_length("depths", depths, 4)
        for depth in depths:
            check_integer("depth of a stage", depth, 1)
        stem = _patches(in_channels, channels, 4, 1 if small_images else 4)
        stages: list[Stage] = []
        for i, rates in enumerate(drop_path_rates(drop_path, depths)):
            width = channels * 2**i
            blocks = [FasterNetBlock(width, act=act, drop_path=rate) for rate in rates]
            opening = {"merging": _patches(width // 2, width, 2, 2)} if i else {}
            stages.append(Stage(*blocks, **opening))
        fc = normal_(nn.Linear(width, hidden, bias=False), 0.02)
        head = ClassifierHead(
            hidden,
            num_classes,
            hidden=nn.Sequential(OrderedDict(fc=fc, act=act())),
            dropout=dropout,
            make_classifier=_classifier,
        )
        min_size = DOWNSAMPLING // 4 if small_images else DOWNSAMPLING
        super().__init__(stem, stages, head, names=NAMES, min_input_size=min_size)


def _patches(in_channels: int, out_channels: int, size: int, stride: int) -> ConvNormAct:
    """Return a convolution and BatchNorm; patches overlap only if the stride is smaller."""
    padding: Padding | int = "same" if stride < size else 0
    layer = ConvNormAct(in_channels, out_channels, size, stride, padding=padding, act=None)
    normal_(layer.conv, 0.02)
    return layer


def _classifier(num_features: int, num_classes: int) -> nn.Linear:
    return normal_(nn.Linear(num_features, num_classes), 0.02)


@builder
def fasternet_t0(
    *, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]
) -> FasterNet:
    """FasterNet-T0: 40 to 320 channels, 13 blocks, GELU."""
    return build("fasternet_t0", weights, FasterNet, *T0, **options)


@builder
def fasternet_t1(
    *, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]
) -> FasterNet:
    """FasterNet-T1: 64 to 512 channels, 13 blocks, GELU."""
    return build("fasternet_t1", weights, FasterNet, *T1, **options)


@builder
def fasternet_t2(
    *, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]
) -> FasterNet:
    """FasterNet-T2: 96 to 768 channels, 13 blocks, ReLU."""
    return build("fasternet_t2", weights, FasterNet, *T2, **options)


@builder
def fasternet_s(*, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]) -> FasterNet:
    """FasterNet-S: 128 to 1024 channels, 18 blocks, ReLU."""
    return build("fasternet_s", weights, FasterNet, *S, **options)


@builder
def fasternet_m(*, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]) -> FasterNet:
    """FasterNet-M: 144 to 1152 channels, 28 blocks, ReLU."""
    return build("fasternet_m", weights, FasterNet, *M, **options)


@builder
def fasternet_l(*, weights: WeightsSource = None, **options: Unpack[FasterNetOptions]) -> FasterNet:
    """FasterNet-L: 192 to 1536 channels, 28 blocks, ReLU."""
    return build("fasternet_l", weights, FasterNet, *L, **options)
