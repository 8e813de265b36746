"""Run by test_distributed.py, once in each process: trains and writes what came of it.

Arguments: network, number of processes, folder.
"""

import sys
from pathlib import Path

import torch

import cnnarch
from cnnarch.training import Machine, Recipe, fit, load_data
from cnnarch.training.machine import first_of_group

NETWORKS = {
    "lenet5": lambda: cnnarch.lenet5(in_channels=3),
    "vgg11": lambda: cnnarch.vgg11(num_classes=10, width=1 / 16, dropout=0.0),
}


def main(name: str, processes: int, folder: Path) -> None:
    torch.manual_seed(0)
    data = load_data("synthetic")
    data = data._replace(train=data.train.subset(torch.arange(200)))
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
    history = fit(model, data, recipe, output=folder, machine=machine)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save({"weights": model.state_dict(), "rows": history.rows}, folder / f"rank-{rank}.pt")
    first_of_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
