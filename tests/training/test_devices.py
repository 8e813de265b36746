"""Parts of a training step with their tensors on a GPU, on machines with and without one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import cnnarch
from cnnarch.preprocessing import Preprocessing
from cnnarch.training import Recipe
from cnnarch.training.augmentation import Augmentation
from cnnarch.training.data import ImageSet
from cnnarch.training.evaluation import _judge
from cnnarch.training.file_pixels import FilePixels
from cnnarch.training.loading import default_workers
from cnnarch.training.step import compute_loss

CUDA = torch.device("cuda")
# The other augmentations are torchvision's, which draws its random numbers on the CPU.
AUGMENTED: list[dict[str, Any]] = [{"crop_padding": 2, "flip": True}, {"resized_crop": 0.3}]


@pytest.fixture
def images() -> ImageSet:
    pixels = torch.zeros(8, 3, 28, 28, dtype=torch.uint8)
    preprocessing = Preprocessing(32, 32, mean=(0.4,) * 3, std=(0.3,) * 3)
    return ImageSet(pixels, torch.arange(8) % 4, tuple("abcd"), preprocessing)


@pytest.mark.parametrize("keys", AUGMENTED, ids=lambda keys: next(iter(keys)))
def test_augmentation_and_preprocessing_stay_on_the_device(
    images: ImageSet, keys: dict[str, Any]
) -> None:
    augmentation = Augmentation(Recipe(**keys), 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pixels = torch.zeros(8, 3, 28, 28, dtype=torch.uint8, device=CUDA)
        labels = torch.zeros(8, dtype=torch.long, device=CUDA)
        inputs = images.prepare(augmentation.pixels(pixels, 1))
        inputs, targets = augmentation.inputs(inputs, labels)
    assert inputs.device.type == targets.device.type == "cuda"
    assert inputs.shape == (8, 3, 32, 32)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("soft", [True, False])
def test_losses_and_metrics_stay_on_the_device(weighted: bool, soft: bool) -> None:
    recipe = Recipe(label_smoothing=0.1)
    with FakeTensorMode(), CUDA:
        logits = torch.zeros(8, 4)
        outputs = cnnarch.AuxLogits(logits, logits)
        labels = torch.zeros(8, dtype=torch.long)
        targets = torch.zeros(8, 4) if soft else labels
        loss, metrics = compute_loss(outputs, targets, recipe, torch.ones(4) if weighted else None)
        judged = _judge(logits, labels)
    assert loss.device.type == metrics.device.type == "cuda"
    assert {each.device.type for each in judged} == {"cuda"}


def test_worker_processes_decode_files_only_while_a_gpu_computes(images: ImageSet) -> None:
    files = FilePixels([Path("a.jpg")] * 8, 3, images.preprocessing)
    on_disk = replace(images, pixels=files)
    assert default_workers(on_disk, CUDA) >= 1
    assert default_workers(on_disk, torch.device("cpu")) == 0
    assert default_workers(images, CUDA) == 0


def test_a_mixture_of_devices_is_noticed() -> None:
    """The tests above can fail: they would find class weights on the CPU."""
    with FakeTensorMode():
        logits = torch.zeros(8, 4, device=CUDA)
        labels = torch.zeros(8, dtype=torch.long, device=CUDA)
        with pytest.raises(RuntimeError, match="same device"):
            compute_loss(logits, labels, Recipe(), torch.ones(4))
