"""MBConv: a residual block with a wide depthwise convolution in the middle.

Sources: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
arXiv 1801.04381, sec. 3.3. With squeeze-and-excitation: Tan et al., "MnasNet",
arXiv 1807.11626, Fig. 7, and Tan and Le, "EfficientNet", arXiv 1905.11946, sec. 4.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.conv import ConvNormAct, MakeNorm, Padding
from cnnarch.blocks.squeeze_excite import SE
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["MBConv", "round_channels"]


def round_channels(channels: int, width: float = 1.0, divisor: int = 8) -> int:
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


class MBConv(nn.Module):
    r"""$y = x + \mathrm{drop}(\mathrm{BN}(W_3 * \mathrm{SE}(\phi(\mathrm{BN}(W_{dw} * h)))))$.

    $h = \phi(\mathrm{BN}(W_1 * x))$ has `expansion` times as many channels as $x$; if `expansion`
    is 1, $h = x$. The branch's children are `expand` (1x1), `depthwise`, `se`, `project` (1x1,
    without an activation) and `drop_path`. A block that changes the shape has no residual
    connection and therefore no `drop_path`.

    Args:
        in_channels: number of input channels.
        out_channels: number of output channels.
        kernel_size: side length of the depthwise kernel, in pixels.
        stride: stride of the depthwise convolution, in pixels.
        expansion: width of the depthwise convolution divided by the input width.
        se_ratio: squeeze width divided by the block's *input* width, in [0, 1); 0 omits
            squeeze-and-excitation.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).
        padding: "symmetric" or TensorFlow's "same"; see `ConvNormAct`.
        norm: creates a normalization layer from its number of channels.
        act: creates an activation; also used in squeeze-and-excitation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count is not a positive integer, or a ratio is out of range.

    >>> import torch
    >>> MBConv(16, 24, 3, stride=2, expansion=6)(torch.zeros(1, 16, 32, 32)).shape
    torch.Size([1, 24, 16, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        *,
        se_ratio: float = 0.25,
        drop_path: float = 0.0,
        padding: Padding = "symmetric",
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("expansion", expansion, 1)
        check_probability("se_ratio", se_ratio)
        check_probability("drop_path", drop_path)
        super().__init__()
        middle = in_channels * expansion
        branch = nn.Sequential()
        if expansion != 1:
            branch.expand = ConvNormAct(in_channels, middle, 1, norm=norm, act=act)
        branch.depthwise = ConvNormAct(
            middle, middle, kernel_size, stride, groups=middle, padding=padding, norm=norm, act=act
        )
        if se_ratio:
            branch.se = SE(middle, max(1, int(in_channels * se_ratio)), act=act)
        branch.project = ConvNormAct(middle, out_channels, 1, norm=norm, act=None)
        self.has_residual = stride == 1 and in_channels == out_channels
        if self.has_residual:  # kept even at rate 0, so the layout never changes
            branch.drop_path = StochasticDepth(drop_path)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's output, plus the input if their shapes match."""
        y: Tensor = self.branch(x)
        return x + y if self.has_residual else y
