"""ResMLP layer: a linear layer across patches, then an MLP over the channels of each patch.

Source: Touvron et al., "ResMLP: Feedforward networks for image classification with data-efficient
training", arXiv 2105.03404, sec. 2.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.layer_scale import LayerScale
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["Affine", "ResMLPLayer"]


class Affine(nn.Module):
    r"""$y_c = \alpha_c x_c + \beta_c$ for each channel c of the last dimension (eq. 1).

    It takes the place of a norm, but computes no statistics. It starts as the identity.

    Args:
        channels: size of the last dimension.

    Shape:
        (..., channels) -> the same
    """

    def __init__(self, channels: int) -> None:
        check_integer("channels", channels, 1)
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift each channel."""
        return torch.addcmul(self.beta, self.alpha, x)


class ResMLPLayer(nn.Module):
    r"""$u = x + \gamma_1 (A\,\mathrm{Aff}(x)^T)^T$, $y = u + \gamma_2 M(\mathrm{Aff}(u))$.

    A is a linear layer over the tokens (pixels) of each channel. The MLP
    $M(x) = C\,\mathrm{GELU}(B x)$ has four times as many hidden units as channels. All layers have
    biases. Weights are drawn from N(0, 0.02^2).

    Args:
        tokens: number of pixels in the map, H * W.
        channels: number of channels in the map.
        layer_scale: initial value of the factors gamma, greater than 0.
        drop_path: probability of dropping each of the two branches for an image in training, in
            [0, 1).

    Shape:
        (N, channels, H, W) -> the same, with H * W = tokens

    Raises:
        ValueError: a count is not a positive integer, or a rate is out of range.

    >>> ResMLPLayer(196, 384)(torch.zeros(1, 384, 14, 14)).shape
    torch.Size([1, 384, 14, 14])
    """

    def __init__(
        self, tokens: int, channels: int, *, layer_scale: float = 1e-4, drop_path: float = 0.0
    ) -> None:
        check_integer("tokens", tokens, 1)
        check_integer("channels", channels, 1)
        super().__init__()
        self.token_norm = Affine(channels)
        self.token_linear = normal_(nn.Linear(tokens, tokens), 0.02)
        self.token_scale = LayerScale(channels, layer_scale)
        self.token_drop_path = StochasticDepth(drop_path)
        self.channel_norm = Affine(channels)
        self.channel_mlp = nn.Sequential()
        self.channel_mlp.expand = normal_(nn.Linear(channels, 4 * channels), 0.02)
        self.channel_mlp.act = nn.GELU()
        self.channel_mlp.project = normal_(nn.Linear(4 * channels, channels), 0.02)
        self.channel_scale = LayerScale(channels, layer_scale)
        self.channel_drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        size = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)  # (N, tokens, channels)
        mixed = self.token_linear(self.token_norm(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.token_drop_path(self.token_scale(mixed))
        mixed = self.channel_mlp(self.channel_norm(x))
        x = x + self.channel_drop_path(self.channel_scale(mixed))
        return x.transpose(1, 2).unflatten(2, size)  # type: ignore[no-untyped-call]
