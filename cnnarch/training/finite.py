"""Notice losses and weights that became infinite or NaN."""

import math
from collections.abc import Iterable
from typing import NoReturn

import torch
from lightning.fabric import Fabric
from torch import Tensor

GPU_INTERVAL = 50  # steps between checks, each of which waits for the GPU


class NonFiniteLossError(FloatingPointError):
    """Raised when the loss or the weights become infinite or NaN; earlier checkpoints are kept."""


class LossCheck:
    """Collects the losses of steps and raises an error for the first one that is not finite.

    On a CPU, every loss is checked immediately.

    Args:
        fabric: the device, and the processes, all of which raise the error at the same step.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.interval = 1 if fabric.device.type == "cpu" else GPU_INTERVAL
        self._steps: list[tuple[str, Tensor]] = []

    def add(self, place: str, losses: Tensor) -> None:
        """Add a step's losses, which are on the device; `place` names the step in messages."""
        self._steps.append((place, losses))
        if len(self._steps) >= self.interval:
            self.check()

    def check(self) -> None:
        """Wait for the device and check all losses added since the last check.

        Raises:
            NonFiniteLossError: a loss is infinite or NaN.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        values = torch.stack([losses for _, losses in steps]).tolist()
        bad = [_first_not_finite(losses) for losses in values]
        # The largest of these numbers, over all processes, belongs to the earliest step.
        number = next((len(bad) - i for i, value in enumerate(bad) if value is not None), 0)
        number = largest(self.fabric, number)
        if number:
            place, value = steps[-number][0], bad[-number]
            if value is None:
                fail("the loss in another process became infinite or NaN", place)
            fail(f"the loss became {value}", place)


def check_weights(weights: Iterable[Tensor], place: str) -> None:
    """Raise an error if a weight is infinite or NaN.

    Raises:
        NonFiniteLossError: a weight is infinite or NaN.
    """
    finite = [weight.detach().isfinite().all() for weight in weights]
    if not bool(torch.stack(finite).all()):
        fail("weights became infinite or NaN", place)


def fail(what: str, place: str) -> NoReturn:
    """Raise an error that says what happened in which step."""
    raise NonFiniteLossError(f"{what} in {place}")


def largest(fabric: Fabric, number: int) -> int:
    """Return the largest of the numbers that all processes pass."""
    if fabric.world_size == 1:
        return number
    values = torch.tensor(number, device=fabric.device)
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return int(values)


def _first_not_finite(values: list[float]) -> float | None:
    return next((value for value in values if not math.isfinite(value)), None)
