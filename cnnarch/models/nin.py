"""NiN: small MLPs slide over the map, and logits are averaged maps (Lin, Chen and Yan, 2013)."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from torch import nn

from cnnarch.blocks._checks import check_probability
from cnnarch.blocks.checkpointing import Stage
from cnnarch.blocks.nin import NiNBlock, ScoreMapHead
from cnnarch.contract.build import WeightsSource, build
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.contract.options import CommonOptions, DropoutOptions
from cnnarch.facts.builders import builder

__all__ = ["CifarNiN", "NiN", "nin", "nin_cifar"]


class Mlpconv(NamedTuple):
    """One mlpconv layer and the layers before it.

    Args:
        widths: numbers of channels in the convolution and in each 1x1 layer. In the last row, the
            layer that computes the class scores is omitted because it belongs to the head.
        kernel_size: side length of the convolution's kernel, in pixels.
        stride: stride of the convolution.
        padding: padding of the convolution, in pixels.
        pool: 3x3 pool with stride 2 before the convolution; None in the first row.
        dropout: whether there is dropout between the pool and the convolution.
    """

    widths: tuple[int, ...]
    kernel_size: int
    stride: int = 1
    padding: int = 0
    pool: type[nn.MaxPool2d | nn.AvgPool2d] | None = nn.MaxPool2d
    dropout: bool = False


IMAGENET = (
    Mlpconv((96, 96, 96), 11, 4, pool=None),
    Mlpconv((256, 256, 256), 5, padding=2),
    Mlpconv((384, 384, 384), 3, padding=1),
    Mlpconv((1024, 1024), 3, padding=1, dropout=True),
)
CIFAR = (
    Mlpconv((192, 160, 96), 5, padding=2, pool=None),
    Mlpconv((192, 192, 192), 5, padding=2, dropout=True),
    Mlpconv((192, 192), 3, padding=1, pool=nn.AvgPool2d, dropout=True),
)


class NiN(ImageClassifier):
    """Network in network: mlpconv layers with pools between them, global average of scores.

    Pools work as in Caffe: windows start at the first pixel, and the last may be truncated. As in
    the authors' networks, a ReLU precedes the average of the class scores, so logits are never
    negative. Weights use Glorot initialization because the paper does not specify one.

    The network that appears in many textbooks, for 10 classes:

    >>> from cnnarch.models.nin import IMAGENET, Mlpconv, NiN
    >>> last = Mlpconv((10, 10), 3, padding=1, dropout=True)
    >>> sum(p.numel() for p in NiN((*IMAGENET[:3], last), num_classes=10).parameters())
    2015398

    Args:
        rows: the mlpconv layers. The last one's final 1x1 layer, which computes the class scores,
            is not included because it belongs to the head.
        num_classes: number of logits; 0 returns the average of the last map.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value in the dropout layers of `rows`, in [0, 1).
        small_images: use a 3x3 first kernel with stride 1; 32x32 images give 4x4 maps.

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows of `nin` have strides 4, 8, 16 and 32.

    Raises:
        ValueError: `rows` is empty, the first row has a pool or dropout, or `dropout` is out of
            range.
    """

    def __init__(
        self,
        rows: Sequence[Mlpconv],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.5,
        small_images: bool = False,
    ) -> None:
        check_probability("dropout", dropout)
        if not rows or rows[0].pool or rows[0].dropout:
            raise ValueError(f"the first row must have no pool or dropout, got rows {rows}")
        first, *later = rows
        if small_images and first.stride > 1:
            first = first._replace(kernel_size=3, stride=1, padding=1)
        stem = _block(in_channels, first)
        stages, channels = [], stem.out_channels
        for row in later:
            opening: dict[str, nn.Module] = {}
            if row.pool is not None:
                opening["pool"] = row.pool(3, 2, ceil_mode=True)
            if row.dropout:
                opening["dropout"] = nn.Dropout(dropout)
            stages.append(Stage(_block(channels, row), **opening))
            channels = row.widths[-1]
        head = ScoreMapHead(channels, num_classes)
        names = [f"mlpconv{i + 1}" for i in range(len(rows))]
        min_size = _min_input_size([first, *later])
        super().__init__(stem, stages, head, names=names, min_input_size=min_size)


def _block(in_channels: int, row: Mlpconv) -> NiNBlock:
    return NiNBlock(in_channels, row.widths, row.kernel_size, row.stride, padding=row.padding)


def _min_input_size(rows: Sequence[Mlpconv]) -> int:
    """Return the smallest input side, in pixels, whose last map has one pixel."""
    side = 1
    for row in reversed(rows):
        side = max((side - 1) * row.stride + row.kernel_size - 2 * row.padding, 1)
        if row.pool is not None:  # the window may be truncated and needs only two pixels
            side *= 2
    return side


class CifarNiN(NiN):
    """The paper's CIFAR network: three mlpconv layers with a max-pool and an average pool between.

    Args:
        num_classes: number of logits; 0 returns the average of the last map.
        in_channels: number of channels in the input image.
        dropout: probability of zeroing a value after either pool, in [0, 1).

    Shape:
        (N, in_channels, H, W) -> (N, num_classes). Rows have strides 1, 2 and 4.
    """

    def __init__(
        self, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.5
    ) -> None:
        super().__init__(CIFAR, num_classes=num_classes, in_channels=in_channels, dropout=dropout)


@builder
def nin_cifar(*, weights: WeightsSource = None, **options: Unpack[DropoutOptions]) -> CifarNiN:
    """NiN for CIFAR images: three mlpconv layers with 192 channels."""
    return build("nin_cifar", weights, CifarNiN, **options)


@builder
def nin(*, weights: WeightsSource = None, **options: Unpack[CommonOptions]) -> NiN:
    """NiN for ImageNet: four mlpconv layers with 96 to 1024 channels."""
    return build("nin", weights, NiN, IMAGENET, **options)
