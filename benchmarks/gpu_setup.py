"""What the sections of the GPU benchmark share: the device, networks, images and measurements."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import cnnarch
from benchmarks.measure import RESULTS
from cnnarch.preprocessing import Preprocessing
from cnnarch.training import ImageData, ImageSet, Machine

Row = Callable[[], dict[str, Any]]
TINY = "resnet20_cifar"


class Setup(NamedTuple):
    """What is measured where.

    Args:
        device: "cuda" or "cpu".
        tiny: whether to use small networks, images and batches.
        folder: folder for result files of sections that write their own.
    """

    device: str
    tiny: bool
    folder: Path = RESULTS

    def network(self, name: str) -> nn.Module:
        """Return a network with random weights on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            return cnnarch.get_model(name)

    def images(self, count: int, side: int = 224) -> Tensor:
        """Return random images on the device."""
        side = 64 if self.tiny else side
        return torch.randn(count, 3, side, side, device=self.device)

    def finish(self, call: Callable[[], object]) -> Callable[[], None]:
        """Return a function that calls another one and waits for the device."""

        def run() -> None:
            call()
            self.synchronize()

        return run

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Call a function and return the device memory that it needed, or None on a CPU."""
        if self.device == "cpu":
            call()
            return None
        torch.compiler.reset()  # compiled code keeps tensors
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before

    def machine(self) -> Machine:
        """Return the device for training."""
        return Machine(accelerator="gpu" if self.device == "cuda" else "cpu")


def noise_data(train: int, test: int, channels: int, side: int) -> ImageData:
    """Return images of random pixels in ten classes.

    Args:
        train: number of training images.
        test: number of test images.
        channels: number of channels.
        side: width and height in pixels.
    """
    half = (0.5,) * channels
    preprocessing = Preprocessing(side, side, mean=half, std=half)
    generator = torch.Generator().manual_seed(0)
    sets = []
    for count in (train, test):
        size = (count, channels, side, side)
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 10
        sets.append(ImageSet(pixels, labels, tuple("0123456789"), preprocessing, default_size=True))
    return ImageData("noise", *sets)
