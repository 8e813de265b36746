"""Where to compute, and how fast the machine there does what."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from torch import nn

from cnnarch.analysis import count_macs
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.training.memory import memory_kept

__all__ = [
    "Machine",
    "arranged",
    "first_of_group",
    "is_first_process",
    "is_small",
    "multiplies_bf16",
    "quiet",
]

SMALL_STEP = 10**8  # multiply-adds forward; a core does them in a few milliseconds


class Machine(NamedTuple):
    """Where to compute.

    Args:
        devices: processes on this machine, each with its own device.
        num_nodes: machines; torchrun or the cluster's scheduler starts the others.
        accelerator: "cpu", "gpu" or another of Lightning's; "auto" takes the best there is.
        num_workers: processes that read images ahead, for each training process.
    """

    devices: int = 1
    num_nodes: int = 1
    accelerator: str = "auto"
    num_workers: int = 0

    def check(self) -> None:
        """Find mistakes before anything is written.

        Raises:
            ValueError: torchrun started another number of processes, each of which would train by
                itself; there is no such accelerator, or not as many devices.
        """
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1 and started != self.devices * self.num_nodes:
            raise ValueError(
                f"{started} processes were started, for devices={self.devices} on "
                f"num_nodes={self.num_nodes}: devices is the number on each machine"
            )
        with quiet():
            self.trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def trainer(self, **options: Any) -> Trainer:
        """A Lightning trainer that computes here.

        Raises:
            ValueError: there is no such accelerator, or not as many devices.
        """
        try:
            return Trainer(
                accelerator=self.accelerator,
                devices=self.devices,
                num_nodes=self.num_nodes,
                strategy="ddp" if self.devices * self.num_nodes > 1 else "auto",
                use_distributed_sampler=False,  # BatchSampler shares the images out
                enable_model_summary=False,
                num_sanity_val_steps=0,
                **options,
            )
        except MisconfigurationException as error:
            raise ValueError(str(error)) from error

    def precision(self, wanted: str, model: nn.Module, small: bool = False) -> str:
        """Lightning's name of a precision.

        Args:
            wanted: one of a recipe's; "auto" takes bf16 where the hardware multiplies it faster:
                GPUs that have it, and processors with AMX or AVX-512 BF16. On processors
                networks with depthwise convolutions stay in float32: the backward pass of those
                is slow in bf16, and EfficientNet-B0 took more than twice the time.
            model: what is trained.
            small: whether steps are too small to gain by it.
        """
        if wanted != "auto":
            return wanted
        if self.accelerator != "cpu" and torch.cuda.is_available():
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = multiplies_bf16() and not small
            fast = fast and not any(map(_is_depthwise, model.modules()))
        return "bf16-mixed" if fast else "32-true"


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for bfloat16: AMX or AVX-512 BF16."""
    has: dict[str, Any] = getattr(torch.cpu, "get_capabilities", lambda: {})()
    return bool(has.get("amx_bf16") or has.get("avx512_bf16"))


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


def is_first_process() -> bool:
    """Whether this is the process that writes, before a group is formed."""
    variables = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return int(next((os.environ[v] for v in variables if v in os.environ), "0")) == 0


def first_of_group() -> bool:
    """End the group of training processes, if there is one; whether this was its first."""
    group = torch.distributed
    if not (group.is_available() and group.is_initialized()):
        return True
    rank: int = group.get_rank()
    group.destroy_process_group()
    return rank == 0


def is_small(model: nn.Module, input_size: tuple[int, int, int], images: int) -> bool:
    """Whether a step is too small to share out among threads; False for foreign networks.

    Args:
        model: a network of this package.
        input_size: `(C, H, W)` of its input.
        images: a step.
    """
    known = isinstance(model, ImageClassifier)
    return known and count_macs(model, input_size) * images < SMALL_STEP


@contextmanager
def arranged(model: nn.Module, small: bool, channels_last: bool) -> Iterator[None]:
    """Threads, memory order and memory for training; all are put back after.

    Threads wait for each other many times a step. Where other programs keep the cores busy,
    LeNet-5 on two threads was seen to take ten times as long as on one.

    Args:
        model: its weights are laid out in the order.
        small: whether one thread is enough.
        channels_last: whether channels are innermost; convolutions are as fast or faster so.
    """
    threads = torch.get_num_threads()
    if small:
        torch.set_num_threads(1)
    change = channels_last and all(p.is_contiguous() for p in model.parameters())
    if change:
        model.to(memory_format=torch.channels_last)
    try:
        with memory_kept():
            yield
    finally:
        torch.set_num_threads(threads)
        if change:
            model.to(memory_format=torch.contiguous_format)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's remarks on the machine, its advertisements and harmless advice away."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Images in memory are read faster without worker processes.
            warnings.filterwarnings("ignore", ".*does not have many workers")
            # Layers that are frozen on purpose.
            warnings.filterwarnings("ignore", ".*in eval mode at the start of training")
            # A run that is resumed, or the second stage of one.
            warnings.filterwarnings("ignore", "Checkpoint directory .* is not empty")
            # Lightning's own use of torch's tree utilities.
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
