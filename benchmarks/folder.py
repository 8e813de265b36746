"""How many images per second can be classified from JPEG files?

The folder contains 1,000 JPEG files of 500 x 375 pixels, cropped from photographs in scikit-learn
and scikit-image. cnnarch uses `Predictor` with a network optimized in bfloat16 that includes the
normalization. torchvision opens the files one by one, applies its weights' transform and runs the
network on batches in float32.

Goal: at least 2.5 times as many images per second.

    python -m benchmarks.folder [--images 1000] [--runs 3]
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

import cnnarch
from benchmarks.measure import alternate, keep, ratio_of_medians
from cnnarch.inference import Predictor, fuse, optimize
from cnnarch.weights import get_weights

SIZE = (500, 375)
BATCH = 16
NETWORKS: dict[str, dict[str, Any]] = {  # with the options that match torchvision's networks
    "resnet50": {},
    "efficientnet_b0": {"norm_eps": 1e-5},
}
THEIR_WEIGHTS = {
    "resnet50": torchvision.models.ResNet50_Weights.IMAGENET1K_V1,
    "efficientnet_b0": torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1,
}


def photographs() -> list[np.ndarray]:
    """Return the photographs that are large enough."""
    found = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    found += [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket()]
    return [*found, skimage.data.hubble_deep_field(), skimage.data.retina()]


def write_crops(folder: Path, count: int) -> list[Path]:
    generator = np.random.default_rng(0)
    sources = photographs()
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        image = sources[i % len(sources)]
        top = generator.integers(0, image.shape[0] - SIZE[1] + 1)
        left = generator.integers(0, image.shape[1] - SIZE[0] + 1)
        crop = image[top : top + SIZE[1], left : left + SIZE[0]]
        Image.fromarray(crop).save(path, quality=90)
    return paths


def equal_networks(name: str) -> tuple[cnnarch.ImageClassifier, nn.Module]:
    """Return our network and torchvision's, with the same random weights."""
    torch.manual_seed(0)
    weights = get_weights(name)["IMAGENET1K_V1"]
    ours = cnnarch.get_model(name, **NETWORKS[name])
    ours.preprocessing, ours.categories = weights.preprocessing, weights.categories
    theirs: nn.Module = torchvision.models.get_model(name)
    theirs.load_state_dict(cnnarch.weights.export(ours, layout="torchvision"))
    return ours.eval(), theirs.eval()


def with_torchvision(name: str, model: nn.Module, folder: Path) -> list[int]:
    """Classify the files with a typical torchvision loop."""
    transform = THEIR_WEIGHTS[name].transforms()
    labels: list[int] = []
    batch: list[Tensor] = []
    paths = sorted(folder.glob("*.jpg"))
    with torch.inference_mode():
        for i, path in enumerate(paths, 1):
            batch.append(transform(Image.open(path).convert("RGB")))
            if len(batch) == BATCH or i == len(paths):
                labels += model(torch.stack(batch)).softmax(1).argmax(1).tolist()
                batch = []
    return labels


def measured(name: str, folder: Path, runs: int) -> dict[str, Any]:
    paths = sorted(folder.glob("*.jpg"))
    ours, theirs = equal_networks(name)
    preprocessing = ours.preprocessing
    assert preprocessing is not None
    crop = preprocessing.crop()
    example = torch.stack([crop(Image.open(path)) for path in paths[:BATCH]])
    fast = optimize(fuse(ours, preprocessing), example, precision="bfloat16", budget_s=300)
    print(fast.report, file=sys.stderr)
    predictor = Predictor(fast, top=1)
    candidates: dict[str, Callable[[], object]] = {
        "cnnarch": lambda: predictor(folder, progress=False),
        "torchvision": lambda: with_torchvision(name, theirs, folder),
    }
    seconds = alternate(candidates, runs, warmup=1)
    return {
        "images_per_second": {k: len(paths) / statistics.median(s) for k, s in seconds.items()},
        "ratio": ratio_of_medians(seconds, "torchvision", "cnnarch"),
        "backend": fast.backend,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_crops(Path(folder), options.images)
        results = {name: measured(name, Path(folder), options.runs) for name in NETWORKS}
    keep("folder", "at least 2.5x the images per second of torchvision", results)


if __name__ == "__main__":
    main()
