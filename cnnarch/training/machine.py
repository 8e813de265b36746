"""Where to compute, and how fast the machine there does what."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import nn

from cnnarch.analysis import count_macs
from cnnarch.models._classifier import ImageClassifier

__all__ = ["Machine", "first_of_group", "is_first_process", "quiet", "threads_for"]

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

    def trainer(self, **options: Any) -> Trainer:
        """A Lightning trainer that computes here."""
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

    def precision(self, wanted: str) -> str:
        """Lightning's name of a precision; "auto" takes bf16 where there is hardware for it."""
        if wanted != "auto":
            return wanted
        gpu = self.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return "bf16-mixed" if gpu and torch.cuda.is_bf16_supported(False) else "32-true"


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


@contextmanager
def threads_for(model: nn.Module, input_size: tuple[int, int, int], images: int) -> Iterator[None]:
    """One thread for steps that are too small to share out; the number is put back after.

    Threads wait for each other many times a step. Where other programs keep the cores busy,
    LeNet-5 on two threads was seen to take ten times as long as on one.

    Args:
        model: a network of this package; for others the number of threads stays.
        input_size: `(C, H, W)` of its input.
        images: a step.
    """
    before = torch.get_num_threads()
    if isinstance(model, ImageClassifier) and count_macs(model, input_size) * images < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
