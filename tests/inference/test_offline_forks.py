"""That a process which has used the engines can still fork off workers."""

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

CODE = """
import gc, tempfile, warnings
import torch
import cnnarch
from cnnarch.inference import load_optimized, optimize
from cnnarch.testing import calibrate, example_images
from cnnarch.training import Machine, Recipe, fit, load_data

warnings.simplefilter("ignore")
model = cnnarch.lenet5_bn().eval()
calibrate(model, example_images(model, 8))
images = example_images(model, 1)
with tempfile.TemporaryDirectory() as folder:
    fast = optimize(model, images, backend="openvino")
    fast.save(folder + "/fast")
    again = load_optimized(folder + "/fast")
    again(images)
    del fast, again
gc.collect()
data = load_data("digits")
data = data._replace(train=data.train.subset(torch.arange(64)))
network = cnnarch.lenet5()
fit(network, data.suited(network), Recipe(num_epochs=1), machine=Machine(num_workers=1))
print("trained")
"""


def test_workers_start_after_an_engine_was_given_back() -> None:
    """OpenVINO's plugin, once unloaded, took the process down when a loader forked its worker."""
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "trained" in result.stdout
