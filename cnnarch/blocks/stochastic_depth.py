"""Stochastic depth: in training, leave a residual branch out for some of the images.

Source: Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, sec. 3.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_probability

__all__ = ["StochasticDepth"]


class StochasticDepth(nn.Module):
    r"""$y_n = x_n b_n / (1 - p)$ with $b_n$ = 0 for a share $p$ of the images, else 1.

    Each image of the batch is dropped or kept as a whole, on its own. The division keeps the
    expectation, so that nothing is left to do in eval mode, where it passes its input on. (The
    paper drops whole batches and scales in eval mode instead; EfficientNet's authors do this.)

    Args:
        rate: probability of dropping an image, in [0, 1).

    Shape:
        (N, ...) -> the same

    Raises:
        ValueError: `rate` out of range.

    >>> StochasticDepth(0.5).eval()(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 1.]]]])
    """

    def __init__(self, rate: float) -> None:
        check_probability("rate", rate)
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop images in training mode."""
        if not self.training or self.rate == 0:
            return x
        # It zeroes and scales slices of the second dimension: here, the images.
        return torch.feature_dropout(x.unsqueeze(0), self.rate, train=True).squeeze(0)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:g}"
