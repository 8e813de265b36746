"""Mixer layer: mixes information first between tokens, then between channels.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601,
sec. 2.
"""

from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import lecun_normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["LayerNorm2d", "MixerLayer"]


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each pixel, with the eps used in the authors' code.

    Args:
        channels: number of channels in the map.

    Shape:
        (N, channels, H, W) -> the same
    """

    def __init__(self, channels: int) -> None:
        check_integer("channels", channels, 1)
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class MixerLayer(nn.Module):
    r"""$u = x + \mathrm{MLP}_S(\mathrm{LN}(x)^T)^T$, $y = u + \mathrm{MLP}_C(\mathrm{LN}(u))$.

    $\mathrm{MLP}(x) = W_2 \, \mathrm{GELU}(W_1 x)$ with biases. The first MLP mixes the tokens
    (pixels) of each channel, and the second mixes the channels of each token. Both are built from
    1x1 convolutions; the first treats the tokens as its channels. Weights use LeCun
    initialization, as in the authors' code.

    Args:
        tokens: number of pixels in the map, H * W, the paper's S.
        channels: number of channels in the map, the paper's C.
        token_dim: hidden width of the MLP over tokens, the paper's D_S.
        channel_dim: hidden width of the MLP over channels, the paper's D_C.
        drop_path: probability of dropping each of the two MLPs for an image in training, in
            [0, 1).

    Shape:
        (N, channels, H, W) -> the same, with H * W = tokens

    Raises:
        ValueError: a count is not a positive integer, or `drop_path` is out of range.

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
        x = x.flatten(2).transpose(1, 2).unsqueeze(2)  # (N, S, 1, C): the paper's S x C matrix
        x = x + self.token_mlp(self.token_norm(x))
        x = x + self.channel_mlp(self.channel_norm(x).transpose(1, 3)).transpose(1, 3)
        return x.squeeze(2).transpose(1, 2).unflatten(2, size)  # type: ignore[no-untyped-call]


class _MLP(nn.Sequential):
    """W_2 GELU(W_1 x) along dimension 1, computed with 1x1 convolutions."""

    def __init__(self, width: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, hidden, 1)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(hidden, width, 1)
        self.drop_path = StochasticDepth(drop_path)
        lecun_normal_(self.conv1)
        lecun_normal_(self.conv2)
