"""The universal inverted bottleneck: an inverted residual with two optional depthwise convolutions.

Source: Qin et al., "MobileNetV4: Universal Models for the Mobile Ecosystem", arXiv 2404.10518,
sec. 4.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_probability
from cnnarch.blocks.conv import ConvNormAct, MakeNorm
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["UniversalInvertedBottleneck"]


class UniversalInvertedBottleneck(nn.Module):
    r"""$y = x + \mathrm{drop}(W_3 * \phi(D_2 * \phi(W_1 * (D_1 * x))))$, with BN after each layer.

    $D_1$ and $D_2$ are depthwise convolutions, and either may be omitted. $W_1$ and $W_3$ are 1x1
    convolutions to and from `hidden_channels`. The choice of kernels gives four blocks:

    - `middle_kernel` alone: the inverted bottleneck of MobileNet V2
    - `start_kernel` alone: ConvNeXt's order of layers
    - both: "ExtraDW"
    - neither: "FFN", which mixes channels only

    The branch's children are `start`, `expand`, `middle`, `project` and `drop_path`; there is no
    activation after `start` and `project`. `middle` applies the stride or, if it is omitted,
    `start`. A block that changes the shape has no residual connection and no `drop_path`.

    Args:
        in_channels: number of input channels.
        hidden_channels: number of channels in the middle, usually more than `in_channels`.
        out_channels: number of output channels.
        start_kernel: side length of the first depthwise kernel, in pixels; None omits it.
        middle_kernel: side length of the second depthwise kernel, in pixels; None omits it.
        stride: stride of the block, in pixels.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).
        norm: creates a normalization layer from its number of channels.
        act: creates an activation.

    Shape:
        (N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)

    Raises:
        ValueError: a count or size is not a positive integer, `drop_path` is out of range, or no
            depthwise convolution can apply the stride.

    >>> import torch
    >>> block = UniversalInvertedBottleneck(48, 192, 48, start_kernel=5, middle_kernel=3)
    >>> block(torch.zeros(1, 48, 14, 14)).shape
    torch.Size([1, 48, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        start_kernel: int | None = None,
        middle_kernel: int | None = 3,
        stride: int = 1,
        *,
        drop_path: float = 0.0,
        norm: MakeNorm = nn.BatchNorm2d,
        act: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        check_integer("in_channels", in_channels, 1)
        check_integer("hidden_channels", hidden_channels, 1)
        check_integer("stride", stride, 1)
        check_probability("drop_path", drop_path)
        if stride > 1 and start_kernel is None and middle_kernel is None:
            raise ValueError(
                f"stride must be 1 if start_kernel and middle_kernel are None, got {stride}"
            )
        super().__init__()
        branch = nn.Sequential()
        if start_kernel is not None:
            first_stride = stride if middle_kernel is None else 1
            branch.start = _depthwise(in_channels, start_kernel, first_stride, norm, None)
        branch.expand = ConvNormAct(in_channels, hidden_channels, 1, norm=norm, act=act)
        if middle_kernel is not None:
            branch.middle = _depthwise(hidden_channels, middle_kernel, stride, norm, act)
        branch.project = ConvNormAct(hidden_channels, out_channels, 1, norm=norm, act=None)
        self.has_residual = stride == 1 and in_channels == out_channels
        if self.has_residual:  # kept even at rate 0, so the layout never changes
            branch.drop_path = StochasticDepth(drop_path)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the branch's output, plus the input if their shapes match."""
        y: Tensor = self.branch(x)
        return x + y if self.has_residual else y


def _depthwise(
    channels: int,
    kernel_size: int,
    stride: int,
    norm: MakeNorm,
    act: Callable[[], nn.Module] | None,
) -> ConvNormAct:
    return ConvNormAct(channels, channels, kernel_size, stride, groups=channels, norm=norm, act=act)
