"""NiN block and head: a small perceptron slides over the map, and classes are averaged maps.

Source: Lin, Chen and Yan, "Network In Network", arXiv 1312.4400, sec. 3.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import xavier_uniform_

__all__ = ["NiNBlock", "ScoreMapHead"]


class NiNBlock(nn.Sequential):
    r"""mlpconv layer (eq. 2): $y = \phi(W_n \dots \phi(W_2\,\phi(W_1 * x)))$, ReLU after each.

    $W_1$ is a convolution, the others are 1x1: at every pixel, the layers of a perceptron.
    Weights are drawn by Glorot's rule, the paper naming none.

    Args:
        in_channels: channels of the input.
        widths: channels of each layer, the convolution's first.
        kernel_size: side of the convolution's kernel, in pixels.
        stride: step of the convolution.
        padding: of the convolution, as for `ConvNormAct`.

    Shape:
        (N, in_channels, H, W) -> (N, widths[-1], H / stride, W / stride)

    Raises:
        ValueError: no width, or a count that is not a positive integer.

    >>> import torch
    >>> NiNBlock(3, (192, 160, 96), 5)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 96, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        kernel_size: int,
        stride: int = 1,
        *,
        padding: Padding | int = "symmetric",
    ) -> None:
        if not widths:
            raise ValueError("widths must name at least one layer, got none")
        super().__init__()
        for width in widths:
            layer = ConvNormAct(in_channels, width, kernel_size, stride, padding=padding, norm=None)
            xavier_uniform_(layer.conv)
            self.append(layer)
            in_channels, kernel_size, stride, padding = width, 1, 1, 0
        self.out_channels = widths[-1]


class ScoreMapHead(ClassifierHead):
    """dropout -> 1x1 classifier -> ReLU -> global average: a map of scores for each class.

    The classifier comes before the average here, so pre-logits are the averaged map: what the
    classifier reads, averaged. ReLU on the scores is the papers': logits are never negative.

    Args:
        num_features: channels of the map that the classifier reads.
        num_classes: width of the logits; 0 leaves only the average.
        dropout: probability of zeroing a value of that map, in [0, 1).

    Shape:
        (N, num_features, H, W) -> (N, num_classes), or (N, num_features) if num_classes is 0

    Raises:
        ValueError: num_classes or dropout out of range.
    """

    def __init__(self, num_features: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__(
            num_features, num_classes, dropout=dropout, make_classifier=_pixel_classifier
        )

    def pre_logits(self, x: Tensor) -> Tensor:
        """The averaged map: (N, num_features, H, W) -> (N, num_features)."""
        result: Tensor = self.flatten(self.pool(x))
        return result

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier of `num_classes` in place; 0 takes it away."""
        super().reset_classifier(num_classes)
        self._modules.pop("act", None)
        if num_classes:
            self.act = nn.ReLU()
        for name in ("pool", "flatten"):  # children run in order, and these come last
            self._modules[name] = self._modules.pop(name)


def _pixel_classifier(num_features: int, num_classes: int) -> nn.Conv2d:
    classifier = nn.Conv2d(num_features, num_classes, 1)
    xavier_uniform_(classifier)
    return classifier
