"""The code run by test_distributed.py in each process: train and save the results."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

import cnnarch
from cnnarch.training import Machine, Recipe, TrainingStopped, fit, load_data
from cnnarch.training.machine import leave_process_group

NETWORKS = {
    "lenet5": lambda: cnnarch.lenet5(in_channels=3),
    "vgg11": lambda: cnnarch.vgg11(num_classes=10, width=1 / 16, dropout=0.0),
}


def send_signal_in_step(model: nn.Module, step: int) -> None:
    """Send SIGTERM to the last process in the given training step."""
    steps: list[int] = []

    def count(module: nn.Module, _: object) -> None:
        steps.append(module.training)
        if sum(steps) == step and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(count)


def fit_and_save(name: str, processes: int, folder: str, step: int) -> None:
    """Train, save the weights and metrics to the folder, and exit if training was stopped.

    Args:
        name: a key of `NETWORKS`.
        processes: number of processes.
        folder: folder of the run.
        step: training step in which to send SIGTERM, or 0 to send no signal.
    """
    place = Path(folder)
    torch.manual_seed(0)
    data = load_data("synthetic")
    # Of these images, an odd number (21) is held out for validation.
    data = data._replace(train=data.train.subset(torch.arange(210)))
    model = NETWORKS[name]()
    recipe = Recipe(
        num_epochs=2,
        batch_size=32,
        learning_rate=0.01,
        crop_padding=2,
        flip=True,
        precision="32-true",
        probe=True,
        layer_decay=0.9,
        class_weights={"0 degrees": 2.0},
        keep_best=True,  # the first process loads the weights and sends them to the others
        then=[{"num_epochs": 1}],
    )
    machine = Machine(devices=processes, accelerator="cpu")
    if step:
        send_signal_in_step(model, step)
    try:
        history = fit(model, data, recipe, output=place, resume=True, machine=machine)
    except TrainingStopped as stopped:
        # If this exit status were not 0, Lightning might kill the first process.
        sys.exit(stopped.status if leave_process_group() else 0)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save({"weights": model.state_dict(), "rows": history.rows}, place / f"rank-{rank}.pt")
    leave_process_group()
