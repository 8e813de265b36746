"""Residual Inception block: Inception branches whose scaled sum is added to the input.

Source: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning", arXiv 1602.07261, sec. 3.2 and 3.3.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from cnnarch.blocks._checks import check_positive
from cnnarch.blocks.factorized import BranchRows, FactorizedInception
from cnnarch.blocks.initialization import he_normal_

__all__ = ["ResidualInception"]


class ResidualInception(nn.Module):
    r"""$y = \mathrm{ReLU}(x + s\, W\, [b_1(x);\ b_2(x);\ \dots])$: scaled residual Inception block.

    W is a 1x1 convolution with a bias and without a norm, which restores the number of channels.
    A scale s between 0.1 and 0.3 keeps the training of wide networks stable (sec. 3.3).

    Args:
        channels: number of channels of the input and the output.
        branches: rows of each branch, as in `FactorizedInception`.
        scale: factor s of the residual, greater than 0.
        act: whether ReLU follows the sum.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `scale` is not greater than 0, or `FactorizedInception` rejects the branches.

    >>> import torch
    >>> from cnnarch.blocks import ConvRow
    >>> rows = ((ConvRow(32),), (ConvRow(32), ConvRow(32, 3)))
    >>> ResidualInception(256, rows, scale=0.17)(torch.zeros(1, 256, 35, 35)).shape
    torch.Size([1, 256, 35, 35])
    """

    def __init__(
        self, channels: int, branches: Sequence[BranchRows], *, scale: float, act: bool = True
    ) -> None:
        check_positive("scale", scale)
        super().__init__()
        self.scale = scale
        self.out_channels = channels
        self.branches = FactorizedInception(channels, branches)
        self.project = he_normal_(nn.Conv2d(self.branches.out_channels, channels, 1))
        self.act: nn.Module = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add the scaled residual."""
        return self.act(x + self.scale * self.project(self.branches(x)))

    def extra_repr(self) -> str:
        """Return the scale."""
        return f"scale={self.scale:g}"
