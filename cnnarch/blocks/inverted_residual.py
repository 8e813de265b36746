"""The inverted residual: a residual block that is widest in the middle.

Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
arXiv 1801.04381, sec. 3.3. With squeeze-and-excitation it is called MBConv: Tan et al., "MnasNet",
arXiv 1807.11626, Fig. 7, and Tan and Le, "EfficientNet", arXiv 1905.11946, sec. 4. With `fused` it
is the Fused-MBConv of Tan and Le, "EfficientNetV2", arXiv 2104.00298, Fig. 2.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.conv import ConvNormAct, MakeNorm, Padding
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["InvertedResidual", "round_channels"]


def round_channels(channels: float, width: float = 1.0, divisor: int = 8) -> int:
    """Multiply a channel count by `width` and round the product to a multiple of `divisor`.

    The product is rounded to the nearest multiple, or up to the next one if the nearest is more
    than 10% smaller. The result is at least `divisor`. Source: the MobileNetV2 and EfficientNet
    authors' code.

    >>> [round_channels(c, 1.1) for c in (16, 40, 112, 1280)]
    [16, 48, 120, 1408]
    """
    scaled = channels * width
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


class InvertedResidual(nn.Module):
    r"""$y = x + \mathrm{drop}(\mathrm{BN}(W_3 * \mathrm{SE}(\phi(\mathrm{BN}(W_{dw} * h)))))$.

    $h = \phi(\mathrm{BN}(W_1 * x))$ has `hidden_channels`; if these are the input's channels,
    $h = x$. The branch's children are `expand` (1x1), `depthwise`, `se`, `project` (1x1, without
    an activation) and `drop_path`. A block that changes the shape has no residual connection and
    therefore no `drop_path`.

    A fused block has one full k x k convolution, `fused`, in place of `expand` and `depthwise`. If
    it does not expand, this convolution is the whole branch.

    Args:
        in_channels: number of input channels.
        hidden_channels: number of channels in the middle, usually more than `in_channels`.
        out_channels: number of output channels.
        kernel_size: side length of the depthwise kernel, in pixels.
        stride: stride of the depthwise convolution, in pixels.
        se: creates a squeeze-and-excitation module from `hidden_channels` and `in_channels`, of
            which some papers squeeze the first and some the second; None omits it.
        fused: whether one full convolution replaces `expand` and `depthwise`.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).
        padding: "symmetric" or TensorFlow's "same"; see `ConvNormAct`.
        norm: creates a normalization layer from its number of channels.
        act: creates an activation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer, or `drop_path` is out of range.

    >>> import torch
    >>> InvertedResidual(16, 96, 24, 3, stride=2)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 24, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        se: Callable[[int, int], nn.Module] | None = None,
        fused: bool = False,
        drop_path: float = 0.0,
        padding: Padding = "symmetric",
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] = nn.ReLU6,
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("hidden_channels", hidden_channels, 1)
        check_probability("drop_path", drop_path)
        super().__init__()
        expands = hidden_channels != in_channels
        filters = partial(
            ConvNormAct,
            kernel_size=kernel_size,
            stride=stride,
            padding=padding,
            norm=norm,
            act=act,
        )
        branch = nn.Sequential()
        if fused:
            branch.fused = filters(in_channels, hidden_channels if expands else out_channels)
        else:
            if expands:
                branch.expand = ConvNormAct(in_channels, hidden_channels, 1, norm=norm, act=act)
            branch.depthwise = filters(hidden_channels, hidden_channels, groups=hidden_channels)
        if se is not None:
            branch.se = se(hidden_channels, in_channels)
        if expands or not fused:
            branch.project = ConvNormAct(hidden_channels, out_channels, 1, norm=norm, act=None)
        self.has_residual = stride == 1 and in_channels == out_channels
        if self.has_residual:  # kept even at rate 0, so the layout never changes
            branch.drop_path = StochasticDepth(drop_path)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's output, plus the input if their shapes match."""
        y: Tensor = self.branch(x)
        return x + y if self.has_residual else y


def squeeze_input(
    hidden_channels: int,
    in_channels: int,
    *,
    act: Callable[[], nn.Module] = nn.ReLU,
) -> SE:
    """Return squeeze-and-excitation whose squeeze width is a quarter of the block's input width.

    Source: the MnasNet and EfficientNet authors' code.
    """
    return SE(hidden_channels, max(1, in_channels // 4), act=act)
