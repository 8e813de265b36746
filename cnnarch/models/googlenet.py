"""GoogLeNet: nine Inception blocks, with auxiliary heads in training (Szegedy et al., 2014)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Unpack

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.conv import MakeNorm
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inception import AuxiliaryHead, Inception, inception_conv
from cnnarch.blocks.normalization import LRN
from cnnarch.blocks.pooling import AdaptiveAvgPool2d, caffe_max_pool
from cnnarch.contract.auxiliary import AuxLogits
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions
from cnnarch.facts.builders import builder

__all__ = ["GoogLeNet", "googlenet", "googlenet_bn"]

NAMES = ("conv1", "conv2", "inception_3", "inception_4", "inception_5")


class InceptionRow(NamedTuple):
    """A block of Table 1: its columns from "#1x1" to "pool proj", as arguments to `Inception`."""

    c1: int
    c3: tuple[int, int]
    c5: tuple[int, int]
    pool: int

    @property
    def out_channels(self) -> int:
        """Number of channels in the block's output, as in the "output size" column."""
        return self.c1 + self.c3[1] + self.c5[1] + self.pool


INCEPTION_3 = (
    InceptionRow(64, (96, 128), (16, 32), 32),
    InceptionRow(128, (128, 192), (32, 96), 64),
)
INCEPTION_4 = (
    InceptionRow(192, (96, 208), (16, 48), 64),
    InceptionRow(160, (112, 224), (24, 64), 64),
    InceptionRow(128, (128, 256), (24, 64), 64),
    InceptionRow(112, (144, 288), (32, 64), 64),
    InceptionRow(256, (160, 320), (32, 128), 128),
)
INCEPTION_5 = (
    InceptionRow(256, (160, 320), (32, 128), 128),
    InceptionRow(384, (192, 384), (48, 128), 128),
)
TABLE_1 = (INCEPTION_3, INCEPTION_4, INCEPTION_5)


class GoogLeNetConfig(NamedTuple):
    """The differences between the paper's network and torchvision's.

    Args:
        norm: creates the normalization layer after a convolution. None uses biases, and local
            response normalization before and after conv2, as in the paper.
        kernel_size5: side length of the kernel in the branch that the paper calls 5x5.
        last_pool: side length of the pool before "inception (5a)".
        aux_pool: creates the auxiliary heads' pool to 4x4; None uses the paper's 5x5 pool with
            stride 3.
    """

    norm: MakeNorm | None = None
    kernel_size5: int = 5
    last_pool: int = 3
    aux_pool: Callable[[], nn.Module] | None = None


PAPER = GoogLeNetConfig()
TORCHVISION = GoogLeNetConfig(
    norm=partial(nn.BatchNorm2d, eps=1e-3),
    kernel_size5=3,
    last_pool=2,
    aux_pool=partial(AdaptiveAvgPool2d, 4),
)


class GoogLeNetOptions(CommonOptions, total=False):
    """Options of GoogLeNet."""

    aux_logits: bool


class GoogLeNet(ImageClassifier):
    """GoogLeNet ("Inception v1"): two convolutions, nine Inception blocks, pooled linear head.

    `GoogLeNet(GoogLeNetConfig(norm=nn.BatchNorm2d))` is the paper's network with BatchNorm. The
    paper does not specify the initialization. Weights are drawn from N(0, 2 / fan_in), which is He
    initialization for the forward pass, and biases are 0.

    Args:
        config: differences from the paper's network.
        stages: for each stage, the rows of its Inception blocks.
        num_classes: number of logits; 0 returns the pooled features.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        aux_logits: whether the network has auxiliary heads, after "inception (4a)" and "(4d)",
            and returns `AuxLogits` in training mode.
        small_images: use a 3x3 stem with stride 1 and no first pool; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `stages` does not consist of three non-empty stages, or a network with
            auxiliary heads does not have five blocks in its second stage.
    """

    def __init__(
        self,
        config: GoogLeNetConfig = PAPER,
        stages: tuple[tuple[InceptionRow, ...], ...] = TABLE_1,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.4,
        aux_logits: bool = False,
        small_images: bool = False,
    ) -> None:
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        stem = inception_conv(in_channels, 64, kernel_size, stride, norm=config.norm)
        check_length("stages", stages, 3)
        third, fourth, fifth = stages
        parts = [
            _conv2(config.norm, pool=not small_images),
            _inception_stage(config, 3, 192, third),
            _inception_stage(config, 3, third[-1].out_channels, fourth),
            _inception_stage(config, config.last_pool, fourth[-1].out_channels, fifth),
        ]
        head = ClassifierHead(fifth[-1].out_channels, num_classes, dropout=dropout)
        # A 3x3 last pool needs two pixels, a 2x2 one needs one. The other pools halve the map.
        pixels = 4 * (config.last_pool - 1)
        if not small_images:
            pixels = 2 * (2 * pixels) - 1  # the first pool, then the stem, which rounds up
        super().__init__(stem, parts, head, names=NAMES, min_input_size=pixels)
        self.aux_logits = aux_logits
        if aux_logits:
            check_length("rows of inception_4 with auxiliary heads", fourth, 5)
            row_4a, _4b, _4c, row_4d, _4e = fourth
            self.aux1 = _auxiliary(config, row_4a.out_channels, num_classes)
            self.aux2 = _auxiliary(config, row_4d.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | AuxLogits:  # type: ignore[override]
        """Return logits (never softmax), or `AuxLogits` in training with auxiliary heads."""
        if not (self.aux_logits and self.training):
            return super().forward(x)
        (x,) = self.forward_stages(x, ["inception_3"])
        maps: list[Tensor] = []
        x = self.stages[2](x, maps)
        _pool, map_4a, _4b, _4c, map_4d, _4e = maps
        logits = self.forward_head(self.stages[3](x))
        return AuxLogits(logits, self.aux1(map_4a), self.aux2(map_4d))


def _conv2(norm: MakeNorm | None, pool: bool) -> Stage:
    opening: dict[str, nn.Module] = {"pool": caffe_max_pool()} if pool else {}
    if norm is None:
        opening["lrn"] = _lrn()
    stage = Stage(inception_conv(64, 64, 1, norm=norm), **opening)
    stage.append(inception_conv(64, 192, 3, norm=norm))
    return stage.append(_lrn()) if norm is None else stage


def _lrn() -> LRN:
    return LRN(5, alpha=1e-4 / 5, beta=0.75, k=1.0)


def _inception_stage(
    config: GoogLeNetConfig, pool: int, in_channels: int, rows: tuple[InceptionRow, ...]
) -> Stage:
    check_integer("depth of a stage", len(rows), 1)
    stage = Stage(pool=caffe_max_pool(pool))
    for row in rows:
        stage.append(
            Inception(in_channels, *row, norm=config.norm, kernel_size5=config.kernel_size5)
        )
        in_channels = row.out_channels
    return stage


def _auxiliary(config: GoogLeNetConfig, in_channels: int, num_classes: int) -> AuxiliaryHead:
    pool = config.aux_pool() if config.aux_pool else None
    return AuxiliaryHead(in_channels, num_classes, pool=pool, norm=config.norm)


@builder
def googlenet(*, weights: WeightsSource = None, **options: Unpack[GoogLeNetOptions]) -> GoogLeNet:
    """GoogLeNet as published in 2014: 5x5 branches, biases, local response normalization."""
    return build("googlenet", weights, GoogLeNet, **options)


@builder
def googlenet_bn(
    *, weights: WeightsSource = None, **options: Unpack[GoogLeNetOptions]
) -> GoogLeNet:
    """GoogLeNet as in torchvision: BatchNorm, and 3x3 kernels instead of 5x5."""
    return build("googlenet_bn", weights, GoogLeNet, TORCHVISION, **options)
