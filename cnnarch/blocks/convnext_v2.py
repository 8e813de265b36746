"""ConvNeXt V2 block: ConvNeXt's block with global response normalization inside the MLP.

Source: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders",
arXiv 2301.00808, sec. 3.2 and Fig. 5.
"""

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer
from cnnarch.blocks.initialization import normal_
from cnnarch.blocks.stochastic_depth import StochasticDepth

__all__ = ["GRN", "ConvNeXtV2Block"]

EPS = 1e-6  # as in the authors' code, for both norms


class GRN(nn.Module):
    r"""Global response normalization: $y_c = \gamma_c \, n_c \, x_c + \beta_c + x_c$.

    $$n_c = \frac{\lVert x_c \rVert}{\frac{1}{C} \sum_i \lVert x_i \rVert + \epsilon}$$

    $\lVert x_c \rVert$ is the Euclidean norm of channel c over all pixels. Channels that respond
    more than the average channel of the image are amplified, the others are attenuated. A new GRN
    returns its input, because gamma and beta start at 0.

    Args:
        channels: size of the last dimension.

    Shape:
        (N, H, W, channels) -> the same

    Raises:
        ValueError: `channels` is not a positive integer.

    >>> GRN(384)(torch.zeros(1, 14, 14, 384)).shape
    torch.Size([1, 14, 14, 384])
    """

    def __init__(self, channels: int) -> None:
        check_integer("channels", channels, 1)
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by its share of the response."""
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        share = response / (response.mean(-1, keepdim=True) + EPS)
        return self.gamma * (x * share) + self.beta + x

    def extra_repr(self) -> str:
        """Return the number of channels."""
        return f"{len(self.gamma)}"


class ConvNeXtV2Block(nn.Module):
    r"""$y = x + W_2 \, \mathrm{GRN}(\mathrm{GELU}(W_1 \, \mathrm{LN}(W_{dw} * x)))$.

    It is the ConvNeXt block with GRN in place of the layer scale. The MLP has four times as many
    hidden units as channels. All layers have biases, LayerNorm's eps is 1e-6, and weights are drawn
    from N(0, 0.02^2), as in the authors' code.

    Args:
        channels: number of channels of the input and the output.
        drop_path: probability of dropping the branch for an image in training, in [0, 1).

    Shape:
        (N, channels, H, W) -> the same

    Raises:
        ValueError: `channels` is not a positive integer, or `drop_path` is out of range.

    >>> ConvNeXtV2Block(96)(torch.zeros(1, 96, 14, 14)).shape
    torch.Size([1, 96, 14, 14])
    """

    def __init__(self, channels: int, *, drop_path: float = 0.0) -> None:
        check_integer("channels", channels, 1)
        super().__init__()
        self.depthwise = normal_(nn.Conv2d(channels, channels, 7, padding=3, groups=channels), 0.02)
        self.norm = nn.LayerNorm(channels, eps=EPS)
        self.mlp = nn.Sequential()
        self.mlp.expand = normal_(nn.Linear(channels, 4 * channels), 0.02)
        self.mlp.act = nn.GELU()
        self.mlp.grn = GRN(4 * channels)
        self.mlp.project = normal_(nn.Linear(4 * channels, channels), 0.02)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the input."""
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        y = self.mlp(self.norm(y))
        return x + self.drop_path(y.permute(0, 3, 1, 2))
