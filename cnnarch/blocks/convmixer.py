"""ConvMixer layer: a depthwise convolution mixes pixels, and a 1x1 convolution mixes channels.

Source: Trockman and Kolter, "Patches Are All You Need?", arXiv 2201.09792, sec. 2 and Fig. 3.
"""

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["ConvMixerLayer"]


class ConvMixerLayer(nn.Module):
    r"""$u = x + \mathrm{BN}(\phi(W_{dw} * x))$, $y = \mathrm{BN}(\phi(W_1 * u))$ (eq. 2 and 3).

    The activation precedes the norm. Both convolutions have biases and PyTorch's default
    initialization, as in the authors' code.

    Args:
        channels: number of channels of the input and the output.
        kernel_size: side length of the depthwise kernel, in pixels, an odd number.
        act: creates an activation.
        drop_path: probability of dropping the depthwise branch for an image in training, in
            [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a count is not a positive integer, `kernel_size` is even, or `drop_path` is out
            of range.

    >>> import torch
    >>> ConvMixerLayer(768, 7)(torch.zeros(1, 768, 32, 32)).shape
    torch.Size([1, 768, 32, 32])
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        *,
        act: Callable[[], nn.Module] = nn.GELU,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        super().__init__()
        padding = kernel_size // 2
        depthwise = nn.Conv2d(channels, channels, kernel_size, padding=padding, groups=channels)
        self.depthwise = conv_act_norm(depthwise, act)
        self.drop_path = StochasticDepth(drop_path)
        self.pointwise = conv_act_norm(nn.Conv2d(channels, channels, 1), act)

    def forward(self, x: Tensor) -> Tensor:
        """Mix pixels, then channels."""
        return self.pointwise(x + self.drop_path(self.depthwise(x)))


def conv_act_norm(conv: nn.Conv2d, act: Callable[[], nn.Module]) -> nn.Sequential:
    """Return a convolution followed by an activation and BatchNorm, in this order."""
    norm = nn.BatchNorm2d(conv.out_channels)
    return nn.Sequential(OrderedDict(conv=conv, act=act(), norm=norm))
