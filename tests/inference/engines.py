"""The engines that the tests in this folder can use on this machine."""

import pytest
import torch

from cnnarch.inference.engines import ENGINES

__all__ = ["COMPILER", "INDUCTOR"]

COMPILER = ENGINES["inductor"].why_unavailable("float32", torch.device("cpu")) is None
INDUCTOR = pytest.param(
    "inductor",
    marks=[pytest.mark.slow, pytest.mark.skipif(not COMPILER, reason="no C++ compiler")],
)
