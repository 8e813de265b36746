"""Check the arguments of `optimize`."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cnnarch.blocks._checks import check_choice
from cnnarch.inference._measure import tf32_uses
from cnnarch.inference.engines import ENGINES

PRECISIONS = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 1e-2, "int8": 0.05}
"""The precisions and their default tolerances."""

_MAX_CALIBRATION_IMAGES = 1024


def check_request(
    model: nn.Module, example: Tensor, backend: str, precision: str, budget_s: float
) -> None:
    """Raise TypeError or ValueError if an argument of `optimize` is invalid."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ValueError("a network on the meta device cannot be optimized: it has no values")
    if not isinstance(example, Tensor):
        raise TypeError(f"example must be a Tensor of images, got {type(example).__name__}")
    if example.dim() != 4 or not example.numel():
        raise ValueError(f"example must be images (N, C, H, W), got shape {tuple(example.shape)}")
    if example.dtype not in (torch.float32, torch.uint8):
        raise ValueError(f"example must be float32 or uint8, got {example.dtype}")
    if example.is_floating_point() and not bool(example.isfinite().all()):
        raise ValueError("example contains values that are not finite")
    tensors = (*model.parameters(), *model.buffers())
    devices = {tensor.device for tensor in tensors} - {example.device}
    if devices:
        raise ValueError(f"the model is on {devices.pop()}, the example on {example.device}")
    check_choice("precision", precision, PRECISIONS)
    check_choice("backend", backend, ("auto", *ENGINES))
    _check_device(backend, precision, example.device)
    if not _is_number(budget_s):
        raise TypeError(f"budget_s must be a number of seconds, got {budget_s!r}")
    if not budget_s >= 0:
        raise ValueError(f"budget_s must be at least 0, got {budget_s!r}")


def _check_device(backend: str, precision: str, device: torch.device) -> None:
    """Raise ValueError if the backend or the precision is not available on the device."""
    if precision == "int8" and device.type != "cpu":
        raise ValueError(
            f"int8 only runs on the CPU, but the example is on {device}: use bfloat16 or float16 "
            "there, or move the model and the example to the CPU"
        )
    if precision == "float16" and device.type == "cpu":
        raise ValueError(
            "float16 only runs on GPUs, but the example is on the CPU: use bfloat16 there, or move "
            "the model and the example to a GPU"
        )
    if backend == "auto":
        return
    if precision not in ENGINES[backend].precisions:
        having = [
            name
            for name, other in ENGINES.items()
            if precision in other.precisions and other.runs_on(device)
        ]
        raise ValueError(f"{backend} does not support {precision}; use {' or '.join(having)}")
    if why := ENGINES[backend].why_unavailable(precision, device):
        raise ValueError(f"backend {backend!r} cannot be used: {why}")


def default_tolerance(precision: str, device: torch.device) -> float:
    """Return the precision's tolerance; TF32 has as many bits of mantissa as float16."""
    has_tf32 = precision == "float32" and tf32_uses(device)
    return PRECISIONS["float16" if has_tf32 else precision]


def check_tolerance(tolerance: float | None, precision: str, device: torch.device) -> float:
    """Return the checked tolerance, or the precision's default for None."""
    if tolerance is None:
        return default_tolerance(precision, device)
    if not _is_number(tolerance):
        raise TypeError(f"tolerance must be a number, got {tolerance!r}")
    if not 0 <= tolerance < math.inf or (precision == "int8" and tolerance > 1):
        limit = "at most 1" if precision == "int8" else "finite"
        raise ValueError(f"tolerance must be at least 0 and {limit}, got {tolerance!r}")
    return float(tolerance)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_calibration(
    calibration: Tensor | Iterable[object] | None, example: Tensor
) -> tuple[Tensor, ...]:
    """Return the first batches of calibration images, unchanged."""
    if calibration is None:
        raise ValueError("int8 needs calibration=: a few hundred images, preprocessed as usual")
    if isinstance(calibration, Tensor):
        calibration = torch.split(calibration, 32) if calibration.dim() else (calibration,)
    if isinstance(calibration, str | bytes) or not isinstance(calibration, Iterable):
        raise TypeError(f"calibration must be images or batches of them, got {calibration!r:.80}")
    batches: list[Tensor] = []
    for item in calibration:
        images = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise TypeError(f"a calibration batch must be a Tensor of images, got {kind}")
        if images.shape[1:] != example.shape[1:] or images.dtype != example.dtype:
            raise ValueError(
                f"calibration images must be {example.dtype} with shape "
                f"{tuple(example.shape[1:])}, like the example, got a batch of "
                f"{images.dtype} with shape {tuple(images.shape)}"
            )
        batches.append(images.detach().to(example.device))
        if sum(map(len, batches)) >= _MAX_CALIBRATION_IMAGES:
            break
    if not sum(map(len, batches)):
        raise ValueError("calibration contains no images")
    return tuple(batches)
