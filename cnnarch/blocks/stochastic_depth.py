"""Stochastic depth: in training, skip a residual branch for some of the images.

Implemented here because `import cnnarch` must work without torchvision.

Source: Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382, sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_probability

__all__ = ["StochasticDepth"]


class StochasticDepth(nn.Module):
    r"""$y_n = x_n b_n / (1 - p)$, where $b_n$ is 0 with probability $p$ and 1 otherwise.

    Each image in the batch is dropped or kept independently. The division preserves the expected
    value, so the module returns its input unchanged in eval mode. This is the EfficientNet
    authors' variant; the paper drops whole batches and scales in eval mode instead.

    Args:
        rate: probability of dropping an image, in [0, 1).

    Shape:
        (N, ...) -> the same

    Raises:
        ValueError: `rate` is out of range.

    >>> StochasticDepth(0.5).eval()(torch.ones(1, 1, 1, 2))
    tensor([[[[1., 1.]]]])
    """

    def __init__(self, rate: float) -> None:
        check_probability("rate", rate)
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop random images in training mode."""
        if not self.training or self.rate == 0:
            return x
        # feature_dropout drops slices along dimension 1, which here is the batch dimension.
        return torch.feature_dropout(x.unsqueeze(0), self.rate, train=True).squeeze(0)

    def extra_repr(self) -> str:
        """Return the rate."""
        return f"rate={self.rate:g}"


def drop_path_rates(drop_path: float, depths: Sequence[int]) -> list[list[float]]:
    """Return each block's rate, by stage; rates increase linearly from 0 to `drop_path`.

    Raises:
        ValueError: `drop_path` is out of range.

    >>> drop_path_rates(0.5, (1, 2))
    [[0.0], [0.25, 0.5]]
    """
    check_probability("drop_path", drop_path)
    last = max(sum(depths) - 1, 1)
    rates = iter([drop_path * i / last for i in range(sum(depths))])
    return [[next(rates) for _ in range(depth)] for depth in depths]
