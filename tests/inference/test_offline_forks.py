"""A process that has used the engines can still handle signals and fork workers."""

import pytest

from tests.forks import Forks

pytest.importorskip("openvino")

CODE = """
import gc, signal
import torch
from torch.utils.data import DataLoader
import cnnarch
from cnnarch.inference import optimize

received = []
signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
model = cnnarch.lenet5().eval()
engines = [optimize(model, torch.randn(1, 1, 32, 32), backend="openvino") for _ in range(3)]
while engines:
    del engines[0]
    gc.collect()
    signal.raise_signal(signal.SIGUSR1)
    print(len(received), [int(x) for x in DataLoader(range(3), num_workers=1)])
"""


def test_signals_and_workers_work_after_engines_are_freed(forks: Forks) -> None:
    """Deleting OpenVINO Cores in the wrong order would leave a freed signal stack installed."""
    (ended,) = forks.run(CODE)
    assert ended.status == 0, ended.err
    assert ended.out.splitlines() == [f"{count} [0, 1, 2]" for count in (1, 2, 3)]
