"""Select the devices to train on and the settings that make training fast on them."""

import ctypes
import logging
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from cnnarch.analysis import count_macs
from cnnarch.contract.classifier import ImageClassifier

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of glibc's mallopt, from malloc.h
SMALL_STEP = 10**8  # multiply-adds per forward pass; a few milliseconds on one core


class Machine(NamedTuple):
    """The devices to train on.

    Args:
        devices: number of devices on this machine; each has its own process.
        num_nodes: number of machines. torchrun or the cluster's scheduler starts the processes
            on the other machines.
        accelerator: "cpu", "gpu" or another Lightning accelerator; "auto" selects the best one
            available.
        num_workers: number of worker processes that load images for each training process. None
            uses some to decode files while a GPU computes, and none for images in memory or on a
            CPU, which needs its cores for the network.
    """

    devices: int = 1
    num_nodes: int = 1
    accelerator: str = "auto"
    num_workers: int | None = None

    def check(self) -> None:
        """Check that the devices are available.

        Raises:
            ValueError: a number is out of range, torchrun started a different number of processes,
                or the accelerator or some of the devices do not exist.
        """
        for name, minimum in (("devices", 1), ("num_nodes", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ValueError(f"{name} must be at least {minimum}, got {value}")
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1 and started != self.devices * self.num_nodes:
            raise ValueError(
                f"{started} processes were started, but devices={self.devices} and num_nodes="
                f"{self.num_nodes} require {self.devices * self.num_nodes}; devices is the number "
                "of devices per machine"
            )
        self.fabric()

    def fabric(self, precision: str = "32-true") -> Fabric:
        """Create a Lightning Fabric, which runs a training loop on these devices.

        Args:
            precision: Lightning's name for the precision.

        Raises:
            ValueError: the accelerator or some of the devices do not exist.
        """
        try:
            with silence_lightning():
                return Fabric(
                    accelerator=self.accelerator,
                    devices=self.devices,
                    num_nodes=self.num_nodes,
                    strategy="ddp" if self.devices * self.num_nodes > 1 else "auto",
                    precision=precision,  # type: ignore[arg-type]
                )
        except (MisconfigurationException, RuntimeError) as error:  # which one varies
            raise ValueError(
                f"the devices are not available (accelerator={self.accelerator!r}, devices="
                f"{self.devices}): {error}"
            ) from error

    def precision(self, wanted: str, model: nn.Module, small: bool = False) -> str:
        """Return Lightning's name for the precision to use.

        Args:
            wanted: the recipe's precision. "auto" selects bf16 on hardware where it is
                faster: GPUs with bf16 support, and CPUs with AMX or AVX-512 BF16. On CPUs,
                networks with depthwise convolutions stay in float32 because the backward pass of
                these layers is slow in bf16: EfficientNet-B0 took more than twice as long.
            model: the network to train.
            small: whether steps are too small to benefit from bf16.
        """
        if wanted != "auto":
            return wanted
        if self.accelerator != "cpu" and torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = multiplies_bf16() and not small
            fast = fast and not any(map(_is_depthwise, model.modules()))
        return "bf16-mixed" if fast else "32-true"


THIS_MACHINE = Machine()


def multiplies_bf16() -> bool:
    """Return whether the CPU has bfloat16 instructions: AMX or AVX-512 BF16."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", lambda: {})()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def is_first_process() -> bool:
    """Return whether this process has rank 0, even before a process group exists."""
    variables = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return int(next((os.environ[v] for v in variables if v in os.environ), "0")) == 0


def leave_process_group() -> bool:
    """Leave the process group, if any; return whether this was the first process in it."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return True
    rank: int = group.get_rank()
    group.destroy_process_group()
    return rank == 0


def is_small(model: nn.Module, input_size: tuple[int, int, int], images: int) -> bool:
    """Return whether a training step is too small to benefit from multiple threads.

    Args:
        model: a network from this package; any other network returns False.
        input_size: shape of its input, `(C, H, W)`.
        images: number of images per step.
    """
    known = isinstance(model, ImageClassifier)
    return known and count_macs(model, input_size) * images < SMALL_STEP


@contextmanager
def set_threads_and_memory_format(
    model: nn.Module, small: bool, channels_last: bool
) -> Iterator[None]:
    """Set the number of threads and the memory format for training, then restore both.

    Threads synchronize many times per step. When other programs ran on the same cores, LeNet-5
    took up to ten times as long with two threads as with one.

    Args:
        model: the network whose parameters are converted.
        small: whether to use a single thread.
        channels_last: whether to use the channels-last memory format, which is at least as fast
            for convolutions.
    """
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    change = channels_last and all(p.is_contiguous() for p in model.parameters())
    if change:
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if change:
            model.to(memory_format=torch.contiguous_format)


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Hide Lightning's report on the hardware and its tips."""
    # Fabric reports through the logger of lightning.pytorch if that has been imported.
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def moved_to(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to a device, and back on exit."""
    before = next((tensor.device for tensor in model.parameters()), device)
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


@contextmanager
def memory_explained(batch_size: int) -> Iterator[None]:
    """Say what to change if a step does not fit into the memory of a GPU.

    Raises:
        torch.OutOfMemoryError: a step does not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = re.search(r"Tried to allocate [\d.]+ \w+", str(error))
        needed = f" ({found[0].replace('T', 't', 1)} more)" if found else ""
        raise torch.OutOfMemoryError(
            f"a step with batch_size={batch_size} does not fit into the device's memory{needed}: "
            "use a smaller batch_size, with accumulate_grad_batches if the gradients should stay "
            "the same, a smaller image_resolution, or precision: bf16-mixed"
        ) from error


def cpu_name() -> str:
    """Return the CPU's model name, which `platform.processor` does not provide on Linux."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)", info.read_text(), re.M) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Stop glibc from returning freed memory to the operating system until the process ends.

    Every training step allocates the same large tensors. By default, glibc returns blocks larger
    than 32 MiB to the operating system when they are freed, and the kernel has to map and zero each
    page again in the next step. On a CPU, this takes about a fifth of the step time. Other C
    libraries (macOS, Windows, musl) are unaffected. Because the setting applies to the whole
    process, only the `cnnarch` command calls this function; `fit` and `train` do not.

    Source: the mallopt(3) manual page.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # the maximum: never return memory
