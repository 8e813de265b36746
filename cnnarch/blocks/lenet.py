"""Layers of the original LeNet-5 that later networks no longer use.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998, sec. II.B
and appendix A.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_integer

__all__ = ["RBF", "PartialConv", "ScaledTanh", "Subsampling"]

SEED = 1998  # seed for the random codes


class ScaledTanh(nn.Module):
    r"""The activation function $f(a) = 1.7159 \tanh(\frac{2}{3} a)$, with $f(\pm 1) = \pm 1$.

    Shape:
        Any -> the same
    """

    def __init__(self) -> None:
        super().__init__()
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to each value."""
        return 1.7159 * self.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """Sum over 2x2 pixels, multiplied by a coefficient and added to a bias, both trained per map.

    Args:
        channels: number of maps.

    Shape:
        (N, channels, H, W) -> (N, channels, H / 2, W / 2), rounded down

    Raises:
        ValueError: `channels` is not a positive integer.
    """

    def __init__(self, channels: int) -> None:
        check_integer("channels", channels, 1)
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.weight = nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = nn.Parameter(torch.empty(channels, 1, 1))
        fan_in_uniform_(4, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Sum, scale and shift each window."""
        return 4 * self.weight * self.pool(x) + self.bias


class PartialConv(nn.Module):
    """A convolution in which each output map is connected to only some of the input maps.

    Consecutive output maps with the same number of inputs share one grouped convolution.

    Args:
        in_channels: number of input channels.
        table: for each output map, the indices of the input maps it is connected to.
        kernel_size: side length of the square kernel, in pixels.

    Shape:
        (N, in_channels, H, W) -> (N, len(table), H - kernel_size + 1, W - kernel_size + 1)

    Raises:
        ValueError: the table is empty or contains an index that is out of range.
    """

    def __init__(self, in_channels: int, table: Sequence[Sequence[int]], kernel_size: int) -> None:
        if not table or not all(table):
            raise ValueError(f"table must list input maps for each output map, got {table}")
        for index in (i for row in table for i in row):
            if index not in range(in_channels):
                raise ValueError(f"table indices must be 0 to {in_channels - 1}, got {index}")
        super().__init__()
        self.convs = nn.ModuleList()
        self.inputs: list[list[int]] = []  # input maps of each convolution, in channel order
        for count, rows in groupby(table, key=len):
            self.inputs.append([i for row in rows for i in row])
            maps = len(self.inputs[-1]) // count
            conv = nn.Conv2d(maps * count, maps, kernel_size, groups=maps)
            fan_in_uniform_(count * kernel_size**2, *conv.parameters())
            self.convs.append(conv)

    def forward(self, x: Tensor) -> Tensor:
        """Compute each output map from its input maps."""
        maps = x.unbind(1)
        outputs = []
        for conv, inputs in zip(self.convs, self.inputs, strict=True):
            outputs.append(conv(torch.stack([maps[i] for i in inputs], 1)))
        return torch.cat(outputs, 1)


class RBF(nn.Module):
    r"""Negative squared distance to each class's code: $y_i = -\sum_j (x_j - w_{ij})^2$.

    The paper uses the opposite sign, so its outputs are penalties. Larger logits are better,
    and their cross-entropy is the paper's criterion (eq. 9) without the "rubbish" class. The codes
    are fixed. Each value is -1 or +1, where the curvature of the scaled tanh is largest. The codes
    are drawn with a fixed seed and stored in a buffer, so they are saved with the parameters.

    Args:
        in_features: number of values in each code.
        num_classes: number of codes.

    Shape:
        (N, in_features) -> (N, num_classes)
    """

    codes: Tensor

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, num_classes
        generator = torch.Generator().manual_seed(SEED)
        size = (num_classes, in_features)
        codes = 2 * torch.randint(2, size, generator=generator, device="cpu") - 1
        self.register_buffer("codes", codes.to(torch.empty(0)))  # default dtype and device

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative squared distance to each code."""
        return -(x.unsqueeze(-2) - self.codes).square().sum(-1)

    def extra_repr(self) -> str:
        """Return the length and number of the codes."""
        return f"{self.codes.shape[1]}, {self.codes.shape[0]}"


def fan_in_uniform_(fan_in: int, *parameters: nn.Parameter) -> None:
    """Draw weights and biases from U(-2.4, 2.4) / fan_in.

    Source: appendix A of the paper, which treats a bias as the weight of a constant input.
    """
    for parameter in parameters:
        if not parameter.is_meta:
            nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)
