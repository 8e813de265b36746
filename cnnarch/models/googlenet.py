"""GoogLeNet: nine Inception blocks, with auxiliary heads in training (Szegedy et al., 2014)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Unpack

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_length
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.inception import AuxiliaryHead, Inception, inception_conv
from cnnarch.blocks.normalization import LRN
from cnnarch.blocks.pooling import AdaptiveAvgPool2d
from cnnarch.contract.auxiliary import AuxLogits
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier, ModelOptions
from cnnarch.facts.builders import builder

__all__ = ["GoogLeNet", "googlenet", "googlenet_bn"]

NAMES = ("conv1", "conv2", "inception_3", "inception_4", "inception_5")


class Row(NamedTuple):
    """A block of Table 1: its columns from "#1x1" to "pool proj", reductions with their filters."""

    c1: int
    c3: tuple[int, int]
    c5: tuple[int, int]
    pool: int

    @property
    def out_channels(self) -> int:
        """Channels of the block's output, the column "output size"."""
        return self.c1 + self.c3[1] + self.c5[1] + self.pool


INCEPTION_3 = (
    Row(64, (96, 128), (16, 32), 32),
    Row(128, (128, 192), (32, 96), 64),
)
INCEPTION_4 = (
    Row(192, (96, 208), (16, 48), 64),
    Row(160, (112, 224), (24, 64), 64),
    Row(128, (128, 256), (24, 64), 64),
    Row(112, (144, 288), (32, 64), 64),
    Row(256, (160, 320), (32, 128), 128),
)
INCEPTION_5 = (
    Row(256, (160, 320), (32, 128), 128),
    Row(384, (192, 384), (48, 128), 128),
)
TABLE_1 = (INCEPTION_3, INCEPTION_4, INCEPTION_5)


class Form(NamedTuple):
    """What the published forms of the network differ in.

    Args:
        norm: makes a normalisation after each convolution; None gives the convolutions biases
            and puts local response normalisation around conv2, as in the paper.
        kernel_size5: side of the kernel in the branch that the paper calls 5x5.
        last_pool: side of the pool before "inception (5a)".
        aux_pool: makes the auxiliary heads' pool to 4x4; None is the paper's 5x5 of stride 3.
    """

    norm: Callable[[int], nn.Module] | None = None
    kernel_size5: int = 5
    last_pool: int = 3
    aux_pool: Callable[[], nn.Module] | None = None


PUBLISHED = Form()
TORCHVISION = Form(
    norm=partial(nn.BatchNorm2d, eps=1e-3),
    kernel_size5=3,
    last_pool=2,
    aux_pool=partial(AdaptiveAvgPool2d, 4),
)


class GoogLeNetOptions(ModelOptions, total=False):
    """Options of GoogLeNet."""

    dropout: float
    aux_logits: bool
    small_images: bool


class GoogLeNet(ImageClassifier):
    """GoogLeNet ("Inception v1"): two convolutions, nine Inception blocks, pooled linear head.

    `GoogLeNet(Form(norm=nn.BatchNorm2d))` is the paper's network with BatchNorm. The paper does
    not say how weights are initialised: they are drawn from N(0, 2 / fan_in), He's rule for the
    forward pass, and biases begin at 0.

    Args:
        form: the paper's network, or what is different.
        stages: rows of the Inception blocks of each stage.
        num_classes: width of the logits; 0 returns the pooled features.
        in_channels: channels of the input image.
        dropout: probability of zeroing a pooled feature, in [0, 1).
        aux_logits: whether the network has auxiliary heads, after "inception (4a)" and "(4d)",
            and returns `AuxLogits` in training mode.
        small_images: 3x3 stem of stride 1 and no first pool, so that 32 pixels leave a 4x4 map.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Stages have stride 4, 8, 16 and 32.

    Raises:
        ValueError: `stages` are not three of a block or more, the second of five if it has
            auxiliary heads.
    """

    def __init__(
        self,
        form: Form = PUBLISHED,
        stages: tuple[tuple[Row, ...], ...] = TABLE_1,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.4,
        aux_logits: bool = False,
        small_images: bool = False,
    ) -> None:
        kernel_size, stride = (3, 1) if small_images else (7, 2)
        stem = inception_conv(in_channels, 64, kernel_size, stride, norm=form.norm)
        check_length("stages", stages, 3)
        third, fourth, fifth = stages
        parts = [
            _conv2(form, pool=not small_images),
            _inceptions(form, 3, 192, third),
            _inceptions(form, 3, third[-1].out_channels, fourth),
            _inceptions(form, form.last_pool, fourth[-1].out_channels, fifth),
        ]
        head = ClassifierHead(fifth[-1].out_channels, num_classes, dropout=dropout)
        # The last pool needs two pixels if it is a 3x3, one if a 2x2; each before it halves.
        pixels = 4 * (form.last_pool - 1)
        if not small_images:
            pixels = 2 * (2 * pixels) - 1  # the first pool, then the stem, which rounds up
        super().__init__(stem, parts, head, names=NAMES, min_input_size=pixels)
        self.aux_logits = aux_logits
        if aux_logits:
            check_length("rows of inception_4 with auxiliary heads", fourth, 5)
            row_4a, _4b, _4c, row_4d, _4e = fourth
            self.aux1 = _auxiliary(form, row_4a.out_channels, num_classes)
            self.aux2 = _auxiliary(form, row_4d.out_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor | AuxLogits:  # type: ignore[override]
        """Logits, never softmax; with those of the auxiliary heads where there are any."""
        if not (self.aux_logits and self.training):
            return super().forward(x)
        (x,) = self.forward_stages(x, ["inception_3"])
        maps: list[Tensor] = []
        x = self.stages[2](x, maps)
        _pool, map_4a, _4b, _4c, map_4d, _4e = maps
        logits = self.forward_head(self.stages[3](x))
        return AuxLogits(logits, self.aux1(map_4a), self.aux2(map_4d))


def _max_pool(kernel_size: int) -> nn.MaxPool2d:
    """Caffe's pool of stride 2: windows begin at the first pixel, the last may be cut off."""
    return nn.MaxPool2d(kernel_size, 2, ceil_mode=True)


def _conv2(form: Form, pool: bool) -> Stage:
    lrn = form.norm is None
    opening: dict[str, nn.Module] = {"pool": _max_pool(3)} if pool else {}
    if lrn:
        opening["lrn"] = _lrn()
    reduce = inception_conv(64, 64, 1, norm=form.norm)
    stage = Stage(reduce, inception_conv(64, 192, 3, norm=form.norm), **opening)
    return stage.append(_lrn()) if lrn else stage


def _lrn() -> LRN:
    return LRN(5, alpha=1e-4 / 5, beta=0.75, k=1.0)


def _inceptions(form: Form, pool: int, in_channels: int, rows: tuple[Row, ...]) -> Stage:
    check_integer("depth of a stage", len(rows), 1)
    stage = Stage(pool=_max_pool(pool))
    for row in rows:
        block = Inception(in_channels, *row, norm=form.norm, kernel_size5=form.kernel_size5)
        stage.append(block)
        in_channels = block.out_channels
    return stage


def _auxiliary(form: Form, in_channels: int, num_classes: int) -> AuxiliaryHead:
    pool = form.aux_pool() if form.aux_pool else None
    return AuxiliaryHead(in_channels, num_classes, pool=pool, norm=form.norm)


@builder
def googlenet(*, weights: WeightsSource = None, **options: Unpack[GoogLeNetOptions]) -> GoogLeNet:
    """GoogLeNet as published in 2014: 5x5 branches, biases, local response normalisation."""
    return build("googlenet", weights, GoogLeNet, **options)


@builder
def googlenet_bn(
    *, weights: WeightsSource = None, **options: Unpack[GoogLeNetOptions]
) -> GoogLeNet:
    """GoogLeNet as torchvision has it: BatchNorm, and 3x3 kernels in place of the 5x5."""
    return build("googlenet_bn", weights, GoogLeNet, TORCHVISION, **options)
