"""Layer scale: multiply each channel of a residual branch by a learned factor.

Source: Touvron et al., "Going deeper with Image Transformers", arXiv 2103.17239, sec. 2.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer, check_positive

__all__ = ["LayerScale"]


class LayerScale(nn.Module):
    r"""$y_c = \gamma_c x_c$ for each channel c of the last dimension.

    A small initial value makes a deep residual network start close to the identity.

    Args:
        channels: size of the last dimension.
        value: initial value of all factors, greater than 0.

    Shape:
        (..., channels) -> the same

    Raises:
        ValueError: `channels` is not a positive integer, or `value` is not greater than 0.

    >>> LayerScale(2, 0.5)(torch.tensor([[4.0, 6.0]])).tolist()
    [[2.0, 3.0]]
    """

    def __init__(self, channels: int, value: float) -> None:
        check_integer("channels", channels, 1)
        check_positive("value", value)
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), float(value)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        return self.gamma * x

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return f"{len(self.gamma)}"
