"""A 1x1 convolution by the kernel that is faster on this processor."""

import functools
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnarch.blocks.initialization import lecun_normal_

__all__ = ["FEW_PIXELS", "Pointwise"]

FEW_PIXELS = 128


class Pointwise(nn.Conv2d):
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
