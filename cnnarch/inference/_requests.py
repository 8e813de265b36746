"""What `optimize` was asked for, checked."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cnnarch.inference.engines import ENGINES

__all__ = ["PRECISIONS", "Request", "check_request"]

PRECISIONS = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 0.05}
"""The precisions and what each allows by default."""

_MOST_IMAGES = 1024  # of the calibration images that are kept


class Request(NamedTuple):
    """What to optimize for."""

    backend: str
    precision: str
    calibration: tuple[Tensor, ...]
    tolerance: float
    budget_s: float

    @property
    def named(self) -> bool:
        """Whether one engine was asked for."""
        return self.backend != "auto"


def check_request(
    model: nn.Module,
    example: Tensor,
    backend: str,
    precision: str,
    calibration: Tensor | Iterable[object] | None,
    tolerance: float | None,
    budget_s: float,
) -> Request:
    """The arguments of `optimize`, or an error that says what is wrong with them."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ValueError("a network on the meta device has no values to compute with")
    _check_example(model, example)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    _check_backend(backend, precision, example.device)
    return Request(
        backend,
        precision,
        _calibration(calibration, example) if precision == "int8" else (),
        _tolerance(tolerance, precision),
        _budget(budget_s),
    )


def _check_example(model: nn.Module, example: Tensor) -> None:
    if not isinstance(example, Tensor):
        raise TypeError(f"example must be a Tensor of images, got {type(example).__name__}")
    if example.dim() != 4 or not example.numel():
        raise ValueError(f"example must be images (N, C, H, W), got shape {tuple(example.shape)}")
    if example.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"example must be float32 or uint8, got {example.dtype}")
    if example.is_floating_point() and not bool(example.isfinite().all()):
        raise ValueError("example has values that are not finite")
    devices = {p.device for p in model.parameters()} - {example.device}
    if devices:
        raise ValueError(f"the model is on {devices.pop()}, the example on {example.device}")


def _check_backend(backend: str, precision: str, device: torch.device) -> None:
    if backend == "auto":
        return
    if backend not in ENGINES:
        raise ValueError(f"backend must be one of auto, {', '.join(ENGINES)}, got {backend!r}")
    engine = ENGINES[backend]
    if precision not in engine.precisions:
        having = [name for name, other in ENGINES.items() if precision in other.precisions]
        raise ValueError(f"{backend} has no {precision}; it is in {', '.join(having)}")
    why = engine.missing(precision, device)
    if why:
        raise ValueError(f"backend {backend!r} cannot be used: {why}")


def _tolerance(tolerance: float | None, precision: str) -> float:
    if tolerance is None:
        return PRECISIONS[precision]
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}")
    if not 0 <= tolerance < math.inf or (precision == "int8" and tolerance > 1):
        most = "at most 1" if precision == "int8" else "finite"
        raise ValueError(f"tolerance must be at least 0 and {most}, got {tolerance!r}")
    return float(tolerance)


def _budget(budget_s: float) -> float:
    if isinstance(budget_s, bool) or not isinstance(budget_s, int | float):
        raise TypeError(f"budget_s must be seconds, got {budget_s!r}")
    if not budget_s >= 0:
        raise ValueError(f"budget_s must be at least 0, got {budget_s!r}")
    return float(budget_s)


def _calibration(
    calibration: Tensor | Iterable[object] | None, example: Tensor
) -> tuple[Tensor, ...]:
    """The first images, in batches as they came."""
    if calibration is None:
        raise ValueError(
            "int8 needs calibration=: some hundreds of images as the network gets them"
        )
    if isinstance(calibration, Tensor):
        calibration = torch.split(calibration, 32) if calibration.dim() else (calibration,)
    if isinstance(calibration, str | bytes) or not isinstance(calibration, Iterable):
        raise TypeError(f"calibration must be images or batches of them, got {calibration!r:.80}")
    batches: list[Tensor] = []
    for item in calibration:
        images = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise TypeError(f"a batch of calibration must be a Tensor of images, got {kind}")
        if images.shape[1:] != example.shape[1:] or images.dtype != example.dtype:
            raise ValueError(
                f"calibration images must be {example.dtype} of shape "
                f"{tuple(example.shape[1:])} as the example, got a batch of "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        batches.append(images.detach().to(example.device))
        if sum(map(len, batches)) >= _MOST_IMAGES:
            break
    if not sum(map(len, batches)):
        raise ValueError("calibration has no images")
    return tuple(batches)
