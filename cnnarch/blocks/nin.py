"""NiN block and head: a small MLP slides over the map, and each logit is the average of a map.

Source: Lin, Chen and Yan, "Network In Network", arXiv 1312.4400, sec. 3.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from cnnarch.blocks.conv import ConvNormAct, Padding
from cnnarch.blocks.head import ClassifierHead
from cnnarch.blocks.initialization import xavier_uniform_

__all__ = ["NiNBlock", "ScoreMapHead"]


class NiNBlock(nn.Sequential):
    r"""mlpconv (eq. 2): $y = \phi(W_n \dots \phi(W_2\,\phi(W_1 * x)))$, where $\phi$ is ReLU.

    $W_1$ is a convolution. The 1x1 convolutions after it act as an MLP at each pixel. Weights use
    Glorot initialization because the paper specifies none.

    Args:
        in_channels: number of input channels.
        widths: number of output channels of each layer, starting with the convolution.
        kernel_size: side length of the convolution's kernel, in pixels.
        stride: stride of the convolution.
        padding: padding of the convolution, as in `ConvNormAct`.

    Shape:
        (N, in_channels, H, W) -> (N, widths[-1], H / stride, W / stride)

    Raises:
        ValueError: `widths` is empty, or a count is not a positive integer.

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
            raise ValueError("widths must list at least one layer, got none")
        super().__init__()
        for width in widths:
            layer = ConvNormAct(in_channels, width, kernel_size, stride, padding=padding, norm=None)
            xavier_uniform_(layer.conv)
            self.append(layer)
            in_channels, kernel_size, stride, padding = width, 1, 1, 0
        self.out_channels = widths[-1]


def _pixel_classifier(num_features: int, num_classes: int) -> nn.Conv2d:
    return xavier_uniform_(nn.Conv2d(num_features, num_classes, 1))


class ScoreMapHead(ClassifierHead):
    """dropout -> 1x1 classifier -> ReLU -> global average of one score map per class.

    The classifier precedes the average, so the pre-logits are the average of the classifier's
    input. As in the paper, a ReLU is applied to the scores, so logits are never negative.

    Args:
        num_features: number of channels in the classifier's input map.
        num_classes: number of logits; 0 keeps only the average.
        dropout: probability of zeroing a value of the input map, in [0, 1).
        make_classifier: creates the 1x1 convolution from its input and output widths.

    Shape:
        (N, num_features, H, W) -> (N, num_classes), or (N, num_features) if num_classes is 0

    Raises:
        ValueError: num_classes or dropout is out of range.

    >>> import torch
    >>> ScoreMapHead(192, 10)(torch.zeros(1, 192, 8, 8)).shape
    torch.Size([1, 10])
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        dropout: float = 0.0,
        make_classifier: Callable[[int, int], nn.Conv2d] = _pixel_classifier,
    ) -> None:
        super().__init__(
            num_features, num_classes, dropout=dropout, make_classifier=make_classifier
        )

    def pre_logits(self, x: Tensor) -> Tensor:
        """Return the average of the map: (N, num_features, H, W) -> (N, num_features)."""
        return self.flatten(self.pool(x))

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier with one for `num_classes` classes; 0 removes it."""
        super().reset_classifier(num_classes)
        self._modules.pop("act", None)
        if num_classes:
            self.act = nn.ReLU()
        for name in ("pool", "flatten"):  # children run in order, so pooling must come last
            self._modules[name] = self._modules.pop(name)
