"""How long does an epoch of LeNet-5 on Fashion-MNIST take, with crops and flips?

Goal: at most 0.6x the time of the usual loop, in which a DataLoader without workers loads PIL
images one by one. The loop with two worker processes, which need additional cores, is also
measured. All candidates use the same network, batches and optimizer and one thread per process, and
run alternately.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import cnnarch
from benchmarks.measure import keep
from cnnarch.training import ImageData, Recipe, fit, load_data

RUNS = 5
BATCH = 128
RECIPE = Recipe(
    num_epochs=1,
    batch_size=BATCH,
    learning_rate=0.05,
    schedule="constant",
    crop_padding=2,
    flip=True,
    validation=0.0,
    image_resolution=32,
    precision="32-true",
)


class PilImages(Dataset[tuple[Tensor, int]]):
    """Fashion-MNIST as in torchvision: each image is a PIL image that is then transformed."""

    def __init__(self, data: ImageData) -> None:
        pixels = data.train.pixels
        assert isinstance(pixels, Tensor)
        self.pixels, self.labels = pixels[:, 0], data.train.labels.tolist()
        preprocessing = data.preprocessing
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(28, padding=2),
                transforms.RandomHorizontalFlip(),
                transforms.Resize(32),
                transforms.ToTensor(),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self.transform(Image.fromarray(self.pixels[index].numpy()))
        return image, self.labels[index]


def usual_epoch(data: ImageData, workers: int) -> float:
    loader = DataLoader(PilImages(data), BATCH, shuffle=True, num_workers=workers, drop_last=True)
    model = cnnarch.lenet5().train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    start = time.perf_counter()
    right = loss_sum = torch.zeros(())
    for images, labels in loader:
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum = loss_sum + loss.detach() * len(labels)
        right = right + (logits.argmax(1) == labels).sum()
    return time.perf_counter() - start


def our_epoch(data: ImageData) -> float:
    return fit(cnnarch.lenet5(), data, RECIPE)["seconds"][0]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main() -> None:
    data = load_data("fashion_mnist", image_resolution=32)
    candidates: dict[str, Callable[[], float]] = {
        "cnnarch": lambda: our_epoch(data),
        "usual, no workers": lambda: usual_epoch(data, 0),
        "usual, 2 workers": lambda: usual_epoch(data, 2),
    }
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with threads(1):
        for _ in range(RUNS):
            for name, epoch in candidates.items():
                seconds[name].append(epoch())
    median = {name: statistics.median(values) for name, values in seconds.items()}
    results = {
        "median_seconds": median,
        "ratio": median["cnnarch"] / median["usual, no workers"],
        "ratio_to_two_workers": median["cnnarch"] / median["usual, 2 workers"],
        "seconds": seconds,
    }
    keep("training_epoch", "at most 0.6x the time of the usual PIL DataLoader loop", results)


if __name__ == "__main__":
    main()
