"""What test_distributed.py runs in each process: trains and writes what came of it."""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

import cnnarch
from cnnarch.training import Machine, Recipe, TrainingStopped, fit, load_data
from cnnarch.training.machine import first_of_group

NETWORKS = {
    "lenet5": lambda: cnnarch.lenet5(in_channels=3),
    "vgg11": lambda: cnnarch.vgg11(num_classes=10, width=1 / 16, dropout=0.0),
}


def tell_in_step(model: nn.Module, step: int) -> None:
    """Send SIGTERM to the last process alone, in this training step."""
    steps: list[int] = []

    def count(module: nn.Module, _: object) -> None:
        steps.append(module.training)
        if sum(steps) == step and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    model.register_forward_pre_hook(count)


def fit_and_save(name: str, processes: int, folder: str, step: int) -> None:
    """Train, write weights and figures to the folder, and end the process if it was stopped.

    Args:
        name: a key of `NETWORKS`.
        processes: of the group.
        folder: of the run.
        step: to send SIGTERM in; 0 means none.
    """
    place = Path(folder)
    torch.manual_seed(0)
    data = load_data("synthetic")
    data = data._replace(
        train=data.train.subset(torch.arange(210))
    )  # 21 of them to validate with: no even number
    model = NETWORKS[name]()
    recipe = Recipe(
        num_epochs=2,
        batch_size=32,
        learning_rate=0.01,
        crop_padding=2,
        flip=True,
        precision="32-true",
        keep_best=True,  # which the first process reads and sends to the others
        then=[{"num_epochs": 1}],
    )
    machine = Machine(devices=processes, accelerator="cpu")
    if step:
        tell_in_step(model, step)
    try:
        history = fit(model, data, recipe, output=place, resume=True, machine=machine)
    except TrainingStopped as stopped:
        # Were it not for 0, Lightning might kill the first.
        sys.exit(stopped.status if first_of_group() else 0)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save({"weights": model.state_dict(), "rows": history.rows}, place / f"rank-{rank}.pt")
    first_of_group()
