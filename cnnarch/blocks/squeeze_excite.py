"""Squeeze-and-excitation: scale each channel by a gate computed from the whole map.

Implemented here because `import cnnarch` must work without torchvision.

Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507, sec. 3.
"""

from collections.abc import Callable

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import he_normal_

__all__ = ["SE"]


class SE(nn.Module):
    r"""$y = x \cdot \sigma(W_2 \, \delta(W_1 z + b_1) + b_2)$, where $z$ is each channel's mean.

    The steps are squeeze (eq. 2), two fully connected layers (eq. 3) and scale (eq. 4). The layers
    `reduce` and `expand` are 1x1 convolutions on the 1x1 map, as in all published checkpoints.
    They have biases, as in the authors' released models.

    Args:
        channels: number of channels in the map.
        squeeze_channels: width between the two layers: channels / 16 in the SE networks, and a
            quarter of the block's input channels in EfficientNet.
        act: creates the activation between the layers, the paper's delta.
        gate: creates the activation that computes the gates, the paper's sigma.

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: a width is not a positive integer.

    >>> import torch
    >>> SE(64, 4)(torch.zeros(1, 64, 7, 7)).shape
    torch.Size([1, 64, 7, 7])
    """

    def __init__(
        self,
        channels: int,
        squeeze_channels: int,
        *,
        act: Callable[[], nn.Module] = nn.ReLU,
        gate: Callable[[], nn.Module] = nn.Sigmoid,
    ) -> None:
        check_integer("channels", channels, 1)
        check_integer("squeeze_channels", squeeze_channels, 1)
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze_channels, 1)
        self.act = act()
        self.expand = nn.Conv2d(squeeze_channels, channels, 1)
        self.gate = gate()
        he_normal_(self.reduce)
        he_normal_(self.expand)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each channel by its gate."""
        squeezed = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(squeezed))))
