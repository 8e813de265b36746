"""Mixer layer: mixes information between places and between channels, by turns.

Source: Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601,
sec. 2.
"""

import functools
import platform
from pathlib import Path

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
        self.conv1 = _Pointwise(width, hidden, 1)
        self.act = nn.GELU()
        self.conv2 = _Pointwise(hidden, width, 1)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        # Each permutation stands beside its inverse, so that engines see none of them.
        x = self.act(self.conv1(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        y: Tensor = self.drop_path(x)
        return y


class _Pointwise(nn.Conv2d):
    """A 1x1 convolution that may run as the linear layer which it is."""

    def reset_parameters(self) -> None:
        lecun_normal_(self)

    def forward(self, x: Tensor) -> Tensor:
        return _pointwise(x, self.weight, self.bias)


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _convolution_pays(x):
        return nn.functional.conv2d(x, weight, bias)
    return nn.functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)


def _convolution_pays(x: Tensor) -> bool:
    """In float32 inference convolutions (oneDNN) may be twice as fast as Linear (MKL).

    They pack their weights anew at every call, which few pixels do not pay for, and their backward
    pass is slow. Compilers choose for themselves.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    wide = x.is_cpu and x.dtype == torch.float32 and x[:, 0].numel() >= FEW_PIXELS
    return wide and _onednn_beats_mkl()


@functools.cache
def _onednn_beats_mkl() -> bool:
    """With AVX-512 on a processor that is not Intel's, where MKL reaches half the speed.

    On Intel's Linear is 5 to 10 % faster; with AVX2 alone convolutions take 1.7 times as long.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and not _is_intels()


def _is_intels(facts: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor names Intel as its maker, on Linux or on Windows."""
    return "GenuineIntel" in (facts.read_text() if facts.exists() else platform.processor())


torch.fx.wrap("_pointwise")  # branches on the size, which symbolic tracing cannot
