"""A finished training run's folder, without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import cnnarch
from cnnarch.weights import Preprocessing

CLASSES = ("daisy", "rose", "tulip")
RESULTS: dict[str, Any] = {
    "model": "resnet18",
    "data": "fashion_mnist",
    "data_folder": None,
    "train_images": 60_000,
    "test_images": 10_000,
    "test": {"loss": 0.21, "top1": 0.93217, "macro_f1": 0.9314, "calibration_error": 0.012},
    "epochs": 10,
    "seed": 3,
}
RECIPE = "model: resnet18\ndata: fashion_mnist\nweights: null\nlearning_rate: 0.1\nseed: 3\n"
PICTURES = {"curves": "red", "confusion": "green", "gradcam": "blue"}  # their color


def network(name: str = "resnet18", **options: Any) -> cnnarch.ImageClassifier:
    model = cnnarch.get_model(name, num_classes=len(CLASSES), **options).eval()
    model.preprocessing = Preprocessing(64, 73, "bicubic", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    model.categories = CLASSES
    return model


def write_run(
    folder: Path, model: cnnarch.ImageClassifier, recipe: str = RECIPE, **results: Any
) -> Path:
    """Write the files of a run that a model card reads; the keywords change its results."""
    model.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    (folder / "results.json").write_text(json.dumps({**RESULTS, **results}), "utf-8")
    for name, color in PICTURES.items():
        Image.new("RGB", (32, 16), color).save(folder / f"{name}.png")
    return folder


def photograph() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize((160, 120), Image.Resampling.BICUBIC)
