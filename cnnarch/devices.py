"""Run networks on GPUs: overlap copying with computing, choose a batch size, explain errors."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")

_SIZES = (16, 32, 64, 128, 256)  # batch sizes to measure
_CLOSE = 0.95  # the smallest batch with this fraction of the best speed is chosen


def available_device(name: str) -> torch.device:
    """Return the device with this name.

    Raises:
        ValueError: there is no such device on this machine.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"there is no device {name!r}; use cpu, cuda or cuda:1") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise ValueError(f"there is no GPU {name!r}: PyTorch finds {count} CUDA GPUs; use cpu")
    return device


class Transfer:
    """Copies batches to a device and results back to the CPU.

    On a CUDA GPU, the copies overlap with computing: batches are copied from pinned memory in a
    stream of their own, and results are copied while the CPU continues.

    Args:
        device: the network's device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.overlaps = overlaps(device)
        self._stream = torch.cuda.Stream(device) if self.overlaps else None  # type: ignore[no-untyped-call]

    def to_device(self, batch: Tensor) -> Tensor:
        """Return the batch on the device."""
        if self._stream is None or batch.device.type != "cpu":
            return batch.to(self.device)
        with torch.cuda.stream(self._stream):
            copied = batch.pin_memory().to(self.device, non_blocking=True)
        stream = torch.cuda.current_stream(self.device)
        stream.wait_stream(self._stream)
        copied.record_stream(stream)
        return copied

    def to_host(self, *results: Tensor) -> Callable[[], list[Tensor]]:
        """Start copying results, and return a function that waits for the copies."""
        if not self.overlaps:
            return lambda: [result.cpu() for result in results]
        copies = [result.to("cpu", non_blocking=True) for result in results]
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(self.device))

        def wait() -> list[Tensor]:
            copied.synchronize()
            return copies

        return wait


def overlaps(device: torch.device) -> bool:
    """Return whether the device computes while the CPU continues."""
    return device.type == "cuda" and torch.cuda.is_available()


def start_ahead(
    items: Iterable[T], start: Callable[[T], R], *, ahead: int
) -> Iterator[tuple[T, R]]:
    """Yield each item and what `start` returns for it, after starting the next items.

    If an item cannot be started, the items before it are yielded before the error is raised.

    Args:
        items: for example batches.
        start: starts computing an item on a GPU.
        ahead: how many further items to start before an item is yielded.
    """
    started: deque[tuple[T, R]] = deque()
    try:
        for item in items:
            started.append((item, start(item)))
            if len(started) > ahead:
                yield started.popleft()
    except Exception:
        yield from started
        raise
    yield from started


def fastest_batch_size(run: Callable[[int], object], device: torch.device) -> int:
    """Return the batch size that computes the most images per second on a GPU.

    Args:
        run: computes a batch of the given size.
        device: the GPU.
    """

    def seconds(size: int) -> float:
        times = []
        for _ in range(4):  # the first call loads kernels
            torch.accelerator.synchronize(device)
            start = time.perf_counter()
            run(size)
            torch.accelerator.synchronize(device)
            times.append(time.perf_counter() - start)
        return min(times)

    return choose_batch_size(seconds)


def choose_batch_size(seconds: Callable[[int], float]) -> int:
    """Return the smallest batch size that is nearly as fast as the fastest one.

    Larger batches are tried until the speed stops growing or the memory does not suffice.

    Args:
        seconds: returns how long a batch of the given size takes.
    """
    rates: dict[int, float] = {}
    for size in _SIZES:
        try:
            rate = size / seconds(size)
        except torch.OutOfMemoryError:
            break
        if rates and rate < max(rates.values()):
            break
        rates[size] = rate
    enough = _CLOSE * max(rates.values(), default=0.0)
    return next((size for size, rate in rates.items() if rate >= enough), _SIZES[0])


def out_of_memory(error: torch.OutOfMemoryError, images: Tensor) -> torch.OutOfMemoryError:
    """Return an error that states the batch, the memory that was needed, and what to try."""
    count, shape = len(images), tuple(images.shape[1:])
    reason, _, _ = str(error).partition("Including non-PyTorch memory")
    advice = "a smaller batch" if count > 1 else "smaller images"
    return torch.OutOfMemoryError(
        f"the GPU has too little free memory for a batch of {count} images of shape {shape}: use "
        f"{advice}, bfloat16, or a GPU that other programs do not use ({reason.strip()})"
    )
