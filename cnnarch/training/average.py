"""An exponential moving average of a network's weights."""

import copy
from itertools import chain

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage:
    """A copy of a network whose weights are the average of the network's.

    In step n, counted from 0, the decay is at most (1 + n) / (10 + n). `AveragedModel` in
    torch.optim.swa_utils waits for the device in every step.

    Args:
        model: the network.
        decay: the decay of the average, in [0, 1).

    Source: the `num_updates` argument of TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.source = model
        self.model = copy.deepcopy(model)
        self.decay = decay
        self.count = 0
        """Number of updates."""

    @torch.no_grad()
    def update(self) -> None:
        """Include the current weights in the average; the first ones replace it."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count)) if self.count else 0.0
        self.count += 1
        pairs = list(zip(_tensors(self.model), _tensors(self.source), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        if floating:
            averages, weights = zip(*floating, strict=True)
            get_ema_multi_avg_fn(decay)(averages, weights, None)  # type: ignore[no-untyped-call]
        for average, now in pairs:
            if not average.is_floating_point():  # a counter
                average.copy_(now)


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.detach() for tensor in chain(model.parameters(), model.buffers())]
