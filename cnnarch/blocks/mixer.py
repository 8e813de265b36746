"""Mixer layer: mixes information between places and between channels, by turns.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601,
sec. 2.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks._pointwise import Pointwise
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["LayerNorm2d", "MixerLayer"]


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel, with the eps of the paper's code.

    Args:
        channels: channels of the map.

    Shape:
        (N, channels, H, W) -> the same
    """

    def __init__(self, channels: int) -> None:
        check_integer("channels", channels, 1)
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MixerLayer(nn.Module):
    r"""$u = x + \mathrm{MLP}_S(\mathrm{LN}(x)^T)^T$, $y = u + \mathrm{MLP}_C(\mathrm{LN}(u))$.

    $\mathrm{MLP}(x) = W_2 \, \mathrm{GELU}(W_1 x)$, with biases: over the tokens (pixels) of
    each channel, then over the channels of each token. Both are 1x1 convolutions, the first of
    a map whose channels are the tokens. Weights start by LeCun's rule, as in the paper's code.

    Args:
        tokens: pixels of the map, H * W, the paper's S.
        channels: channels of the map, the paper's C.
        token_dim: width of the MLP over tokens, the paper's D_S.
        channel_dim: width of the MLP over channels, the paper's D_C.
        drop_path: probability of dropping each of the two sums for an image in training, in
            [0, 1).

    Shape:
        (N, channels, H, W) -> the same, with H * W = tokens

    Raises:
        ValueError: a count that is not a positive integer, or `drop_path` out of range.

    >>> import torch
    >>> MixerLayer(49, 512, 256, 2048)(torch.zeros(1, 512, 7, 7)).shape
    torch.Size([1, 512, 7, 7])
    """

    def __init__(
        self,
        tokens: int,
        channels: int,
        token_dim: int,
        channel_dim: int,
        *,
        drop_path: float = 0.0,
    ) -> None:
        check_integer("tokens", tokens, 1)
        check_integer("channels", channels, 1)
        check_integer("token_dim", token_dim, 1)
        check_integer("channel_dim", channel_dim, 1)
        super().__init__()
        self.token_norm = nn.LayerNorm(channels, eps=1e-6)
        self.token_mlp = _MLP(tokens, token_dim, drop_path)
        self.channel_norm = nn.LayerNorm(channels, eps=1e-6)
        self.channel_mlp = _MLP(channels, channel_dim, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        size = x.shape[2:]
        # (N, 1, S, C): a row of tokens, whose channels are contiguous in memory.
        x = x.flatten(2).unsqueeze(1).mT.contiguous()
        x = x + self.token_mlp(self.token_norm(x).mT.contiguous()).mT
        x = x + self.channel_mlp(self.channel_norm(x))
        return x.mT.squeeze(1).unflatten(2, size)  # type: ignore[no-untyped-call]


class _MLP(nn.Module):
    """Two 1x1 convolutions and a GELU over the last axis of (N, H, W, C)."""

    def __init__(self, width: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = Pointwise(width, hidden, 1)
        self.act = nn.GELU()
        self.conv2 = Pointwise(hidden, width, 1)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # Each permutation stands beside its inverse, so that engines see none of them.
        x = self.act(self.conv1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y: Tensor = self.drop_path(x)
        return y
