"""gMLP layer: an MLP over channels in which half the units gate the other half across patches.

Source: Liu et al., "Pay Attention to MLPs", arXiv 2105.08050, sec. 2.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import lecun_normal_, normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["GMLPLayer", "SpatialGate"]


class SpatialGate(nn.Module):
    r"""Spatial gating unit: $y = z_1 \odot f(\mathrm{LN}(z_2))$ with $z = [z_1;\ z_2]$ (eq. 2).

    f is a linear layer over the tokens of each channel. Its weights start near zero and its
    biases at one, so the gate starts open (sec. 2.1).

    Args:
        tokens: number of tokens.
        channels: number of channels of the input, which must be even.

    Shape:
        (N, tokens, channels) -> (N, tokens, channels / 2)

    Raises:
        ValueError: a count is not a positive integer, or `channels` is odd.

    >>> import torch
    >>> SpatialGate(196, 768)(torch.zeros(1, 196, 768)).shape
    torch.Size([1, 196, 384])
    """

    def __init__(self, tokens: int, channels: int) -> None:
        check_integer("tokens", tokens, 1)
        check_integer("channels", channels, 2)
        if channels % 2:
            raise ValueError(f"channels must be even, got {channels}")
        super().__init__()
        self.norm = nn.LayerNorm(channels // 2)
        self.linear = normal_(nn.Linear(tokens, tokens), 1e-6, bias=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply the first half of the channels by the gate computed from the second half."""
        x, gate = x.chunk(2, dim=-1)
        return x * self.linear(self.norm(gate).transpose(1, 2)).transpose(1, 2)


class GMLPLayer(nn.Module):
    r"""$y = x + V s(\mathrm{GELU}(U \, \mathrm{LN}(x)))$, where s is the spatial gating unit.

    U and V are linear layers over the channels of each token, with biases and LeCun
    initialization.

    Args:
        tokens: number of pixels in the map, H * W, the paper's n.
        channels: number of channels in the map, the paper's d_model.
        hidden: number of hidden units, the paper's d_ffn, which must be even.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same, with H * W = tokens

    Raises:
        ValueError: a count is not a positive integer, `hidden` is odd, or `drop_path` is out of
            range.

    >>> import torch
    >>> GMLPLayer(196, 128, 768)(torch.zeros(1, 128, 14, 14)).shape
    torch.Size([1, 128, 14, 14])
    """

    def __init__(self, tokens: int, channels: int, hidden: int, *, drop_path: float = 0.0) -> None:
        check_integer("channels", channels, 1)
        check_integer("hidden", hidden, 2)
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential()
        self.mlp.expand = lecun_normal_(nn.Linear(channels, hidden))
        self.mlp.act = nn.GELU()
        self.mlp.gate = SpatialGate(tokens, hidden)
        self.mlp.project = lecun_normal_(nn.Linear(hidden // 2, channels))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the gated MLP of the tokens."""
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (N, tokens, channels)
        x = x + self.drop_path(self.mlp(self.norm(x)))
        return x.transpose(1, 2).unflatten(2, size)  # type: ignore[no-untyped-call]
