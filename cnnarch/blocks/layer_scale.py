"""Layer scale: multiply each channel of a residual branch by a learned factor.

Source: Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239, sec. 2.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_number, check_positive

__all__ = ["LayerScale"]


class LayerScale(nn.Module):
    r"""$y_c = \gamma_c x_c$ for each channel c of the last or another dimension.

    A small initial value makes a deep residual network start close to the identity.

    Args:
        channels: size of the dimension.
        value: initial value of all factors, greater than 0.
        dim: the dimension of the channels, counted from the end: -1 is the last, and -3 is C in
            (N, C, H, W).

    Shape:
        (..., channels) -> the same; with another `dim`, `channels` is in that place

    Raises:
        ValueError: `channels` is not a positive integer, `value` is not greater than 0, or `dim`
            is not below 0.

    >>> LayerScale(2, 0.5)(torch.tensor([[4.0, 6.0]])).tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, channels: int, value: float, dim: int = -1) -> None:
        check_integer("channels", channels, 1)
        check_positive("value", value)
        check_number("dim", dim, "an integer below 0", lambda d: d < 0 and d.is_integer())
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), float(value)))
        self.shape = (-1, *[1] * (-1 - dim))  # 1 for each dimension after that of the channels

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return self.gamma.reshape(self.shape) * x

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return f"{len(self.gamma)}"
