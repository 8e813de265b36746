"""The `fit` section of the GPU benchmark: `fit` compared with training loops written by hand."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

import cnnarch
from benchmarks.gpu_setup import TINY, Row, Setup, noise_data
from cnnarch.training import ImageData, Recipe, default_recipe, fit

Mode = Literal["eager", "compiled", "captured"]
RATE = 0.01
PADDING = 2  # pixels


class FitCase(NamedTuple):
    """A network, its images and how it is trained.

    Args:
        network: name of the builder.
        count: number of training images.
        side: width and height of the images in pixels.
        batch: number of images per step.
        epochs: number of epochs of `fit`, including the first, which is not counted.
        changes: settings of `fit` that differ from the default recipe.
        modes: how the loops by hand compute a step.
    """

    network: str
    count: int
    side: int
    batch: int
    epochs: int
    changes: Mapping[str, Any]
    modes: tuple[Mode, ...]

    @property
    def channels(self) -> int:
        """Gray images are small."""
        return 1 if self.side < 64 else 3

    def model(self) -> cnnarch.ImageClassifier:
        """Return the network with random weights on the CPU."""
        torch.manual_seed(0)
        return cnnarch.get_model(self.network, num_classes=10, in_channels=self.channels)

    def recipe(self) -> Recipe:
        """Return the recipe of `fit`."""
        fixed = {"learning_rate": RATE, "validation": 0.0}
        own_size = {"image_resolution": None, "model_options": {}}
        length = {"num_epochs": self.epochs, "batch_size": self.batch}
        changes = {**fixed, **own_size, **length, **self.changes}
        return replace(default_recipe(self.network, "fashion_mnist"), **changes)


AUGMENTED = {"crop_padding": PADDING, "flip": True}
PLAIN = {"crop_padding": 0, "flip": False}
CASES = {
    # five epochs are enough steps for `compile: auto` to compile and capture them
    "resnet20_cifar, 60,000 images of 28 pixels, crops and flips": FitCase(
        "resnet20_cifar", 60_000, 28, 128, 5, AUGMENTED, ("eager", "captured")
    ),
    "resnet50, 10,240 images of 224 pixels, compiled": FitCase(
        "resnet50", 10_240, 224, 256, 4, {**PLAIN, "compile": True}, ("compiled",)
    ),
    "resnet50, 2,560 images of 224 pixels, eager": FitCase(
        "resnet50", 2_560, 224, 256, 3, {**PLAIN, "compile": False}, ("eager",)
    ),
}
TINY_CASES = {
    "crops and flips": FitCase(TINY, 32, 28, 16, 3, AUGMENTED, ("eager",)),
    "plain": FitCase(TINY, 8, 64, 4, 2, PLAIN, ("eager",)),
}


def fit_rows(setup: Setup) -> Iterator[tuple[str, Row]]:
    """Time epochs and measure the memory of `fit` and of loops by hand in the same process."""
    for label, case in (TINY_CASES if setup.tiny else CASES).items():
        yield label, partial(compare, setup, case)


def compare(setup: Setup, case: FitCase) -> dict[str, Any]:
    """Return the figures of `fit` and of each loop by hand, and ratios to the fastest loop.

    `speed_ratio` is above 1 if `fit` is faster, `memory_ratio` is below 1 if it needs less memory.
    """
    data = noise_data(case.count, 64, case.channels, case.side)
    ours, how = time_fit(setup, case, data)
    loops = {mode: time_by_hand(setup, case, data, mode) for mode in case.modes}
    best = min(loops.values(), key=lambda figures: figures["epoch_s"])
    figures = {f"fit_{key}": value for key, value in ours.items()}
    for mode, found in loops.items():
        figures |= {f"{mode}_by_hand_{key}": value for key, value in found.items()}
    figures["images_per_s"] = case.count / ours["epoch_s"]
    figures["speed_ratio"] = best["epoch_s"] / ours["epoch_s"]
    if setup.device == "cuda":
        figures["memory_ratio"] = ours["peak_GiB"] / best["peak_GiB"]
    return {**figures, "setup": how}


def time_fit(setup: Setup, case: FitCase, data: ImageData) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the figures of `fit`, and how it trained: device, precision and kind of step."""
    ends: list[float] = []
    how: dict[str, str] = {}

    def train() -> None:
        ends.append(time.perf_counter())
        history = fit(
            case.model(),
            data,
            case.recipe(),
            machine=setup.machine(),
            on_epoch_end=lambda _: ends.append(time.perf_counter()),
        )
        how.update(history.setup)

    peak = setup.peak_bytes(train)
    first, *others = (end - start for start, end in pairwise(ends))
    return {"first_epoch_s": first, **_figures(others, peak)}, how


def time_by_hand(setup: Setup, case: FitCase, data: ImageData, mode: Mode) -> dict[str, Any]:
    """Return the figures of a loop by hand, without its first epoch."""
    seconds: list[float] = []

    def train() -> None:
        loop = LoopByHand(setup, case, data, mode)
        for _ in range(case.epochs):
            start = time.perf_counter()
            loop.epoch()
            setup.synchronize()
            seconds.append(time.perf_counter() - start)

    peak = setup.peak_bytes(train)
    return _figures(seconds[1:], peak)


def _figures(seconds: list[float], peak: int | None) -> dict[str, Any]:
    figures = {"epoch_s": statistics.median(seconds)}
    return figures if peak is None else {**figures, "peak_GiB": peak / 2**30}


class LoopByHand:
    """A training loop for one network: images on the device, bfloat16, a fused optimizer.

    Args:
        setup: the device.
        case: the network and its images.
        data: the images.
        mode: eager, compiled by torch.compile, or also captured in a CUDA graph with the update.
    """

    def __init__(self, setup: Setup, case: FitCase, data: ImageData, mode: Mode) -> None:
        self.device, self.case = setup.device, case
        self.pixels = torch.as_tensor(data.train.pixels).to(self.device)
        self.labels = data.train.labels.to(self.device)
        model = case.model().to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            RATE,
            momentum=0.9,
            weight_decay=5e-4,
            fused=self.device == "cuda",
        )
        self.network: nn.Module = model if mode == "eager" else torch.compile(model)
        self.step: Callable[[Tensor, Tensor], object] = self._step
        if mode == "captured":
            self.step = capture(self._step, *self._load(torch.arange(case.batch)))

    def epoch(self) -> None:
        """Train on all full batches in random order."""
        order = torch.randperm(len(self.labels), device=self.device)
        for indices in order.split(self.case.batch):
            if len(indices) == self.case.batch:
                self.step(*self._load(indices))

    def _load(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        indices = indices.to(self.device)
        pixels = self.pixels[indices]
        if self.case.changes["flip"]:
            pixels = crop_and_flip(pixels)
        images = pixels.float().div_(127.5).sub_(1)
        return images.contiguous(memory_format=torch.channels_last), self.labels[indices]

    def _step(self, images: Tensor, labels: Tensor) -> None:
        with torch.autocast(self.device, torch.bfloat16):
            loss = cross_entropy(self.network(images), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def crop_and_flip(images: Tensor) -> Tensor:
    """Shift each image randomly by up to `PADDING` pixels, and flip half of them."""
    count, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * PADDING + 1, (2, count, 1), device=device)
    rows, columns = (
        torch.arange(height, device=device) + top,
        torch.arange(width, device=device) + left,
    )
    flipped = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(flipped, columns.flip(1), columns)
    index = torch.arange(count, device=device)[:, None, None]
    padded = pad(images, [PADDING] * 4).movedim(1, -1)
    return padded[index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def capture(
    step: Callable[[Tensor, Tensor], None], images: Tensor, labels: Tensor
) -> Callable[[Tensor, Tensor], None]:
    """Record a step as a CUDA graph, and return a function that replays it on other images.

    Source: "Whole-network capture" in PyTorch's notes on CUDA semantics.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(images, labels)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(images, labels)

    def replay(new_images: Tensor, new_labels: Tensor) -> None:
        images.copy_(new_images)
        labels.copy_(new_labels)
        graph.replay()

    return replay
