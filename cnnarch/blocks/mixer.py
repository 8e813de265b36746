"""Mixer layer: mixes information between places and between channels, by turns.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601,
sec. 2.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import lecun_normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["LayerNorm2d", "MixerLayer"]

FEW_PIXELS = 128


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
        check_integer("token_dim", token_dim, 1)
        check_integer("channel_dim", channel_dim, 1)
        super().__init__()
        self.token_norm = LayerNorm2d(channels)
        self.token_mlp = _mlp(tokens, token_dim, drop_path)
        self.channel_norm = LayerNorm2d(channels)
        self.channel_mlp = _mlp(channels, channel_dim, drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        x = x.contiguous(memory_format=torch.channels_last)  # as norms and channel MLP read it
        x = x + self._mix_tokens(self.token_norm(x))
        return x + self.channel_mlp(self.channel_norm(x))

    def _mix_tokens(self, x: Tensor) -> Tensor:
        # (N, C, H, W) -> (N, S, 1, C). Channel after channel in memory is "channels last" for
        # the convolution over tokens, so the one copy is all that the transposition costs.
        tokens = x.contiguous().flatten(2).transpose(1, 2).unsqueeze(2)
        return self.token_mlp(tokens).squeeze(2).transpose(1, 2).reshape(x.shape)


def _mlp(width: int, hidden: int, drop_path: float) -> nn.Sequential:
    mlp = nn.Sequential()
    mlp.conv1 = _Pointwise(width, hidden, 1)
    mlp.act = nn.GELU()
    mlp.conv2 = _Pointwise(hidden, width, 1)
    mlp.drop_path = StochasticDepth(drop_path)
    for conv in (mlp.conv1, mlp.conv2):
        lecun_normal_(conv)
    return mlp


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution that goes through Linear's kernel where pixels are few."""

    def forward(self, x: Tensor) -> Tensor:
        return _pointwise(x, self.weight, self.bias)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolutions repack their weights at every call, which few pixels do not pay for."""
    if torch.compiler.is_compiling() or x[:, 0].numel() >= FEW_PIXELS:
        return nn.functional.conv2d(x, weight, bias)
    return nn.functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


torch.fx.wrap("_pointwise")  # branches on the size, which symbolic tracing cannot
