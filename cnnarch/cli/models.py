"""The evaluate, predict and export commands, for trained networks."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cnnarch
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import aliases
from cnnarch.facts.text import show_table

if TYPE_CHECKING:
    from cnnarch.contract.classifier import ImageClassifier
    from cnnarch.training import ImageData


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Print accuracy, calibration error and loss on the test images of a data set.

    All images in a folder are used if it has no test images and the network was not trained on it.
    """
    from cnnarch.training import evaluate

    model = load_model(parsed)
    data = load_test_data(model, parsed)
    show_evaluation(evaluate(model, data.test)._asdict())
    return 0


def run_predict(parsed: argparse.Namespace) -> int:
    """Print the most likely classes for image files, or for a data set's first test images.

    Files that cannot be read are listed at the end, and the exit status is then 1.
    """
    from cnnarch.images import find_images
    from cnnarch.inference.predictor import Predictor

    if bool(parsed.files) == bool(parsed.data):
        raise ValueError("specify image files, or a data set with --data")
    model = load_model(parsed).eval()
    _preprocessing(model)
    if parsed.top is not None and not 1 <= parsed.top <= model.num_classes:
        raise ValueError(
            f"--top must be from 1 to {model.num_classes}, the number of classes, got {parsed.top}"
        )
    top = parsed.top or (None if parsed.multi_label else min(3, model.num_classes))
    predictor = Predictor(
        model, top=top, multi_label=parsed.multi_label, threshold=parsed.threshold
    )
    if parsed.data:
        images = load_test_data(model, parsed).test
        indices = torch.arange(min(10, len(images)))
        found = predictor(images.pixels[indices])
        names = [f"test image {i + 1}: {images.classes[images.labels[i]]}" for i in indices]
    else:
        found = predictor(find_images(parsed.files))
        names = [prediction.name for prediction in found]
    rows = [
        (name, *(f"{c} {share:.1%}" for c, share in zip(p.classes, p.probabilities, strict=True)))
        for name, p in zip(names, found, strict=True)
    ]
    columns = max(map(len, rows), default=0)
    if rows:
        padded = [(*row, *[""] * (columns - len(row))) for row in rows]
        show_table(("image", "most likely", *[""] * columns)[:columns], padded)
    for unreadable in found.unreadable:
        print("cnnarch:", " ".join(unreadable.reason.split()), file=sys.stderr)
    return 1 if found.unreadable else 0


def run_export(parsed: argparse.Namespace) -> int:
    """Write a network to a file for other programs, and print the path."""
    from cnnarch.inference.export import ExportError, export

    model = load_model(parsed)
    options = {"half": parsed.half, "opset": parsed.opset, "tolerance": parsed.tolerance}
    try:
        print(export(model, parsed.output, **options))
    except (ExportError, TypeError) as error:
        raise ValueError(str(error)) from error
    return 0


def load_model(parsed: argparse.Namespace) -> "ImageClassifier":
    """Load a saved network, or a network from the library with weights from the catalog."""
    if not parsed.model:
        raise ValueError("specify the network with --model, for example the folder of a run")
    name = aliases().get(parsed.model, parsed.model)
    if name in BUILDERS and not Path(name).exists():
        return cnnarch.get_model(name, weights=parsed.weights)
    folder = Path(parsed.model)
    if (folder / "recipe.yaml").exists() and not (folder / "config.json").exists():
        raise ValueError(f"the run in {folder} is not finished; resume it with train --resume")
    return cnnarch.from_pretrained(parsed.model)


def _preprocessing(model: Any) -> Any:
    if getattr(model, "preprocessing", None) is None:
        raise ValueError("the checkpoint does not specify how to preprocess images")
    return model.preprocessing


def load_test_data(model: "ImageClassifier", parsed: argparse.Namespace) -> "ImageData":
    """Load the data set in --data, or the run's data set, with the network's preprocessing."""
    from cnnarch.training import load_data, read_results
    from cnnarch.training.datasets import folder_of

    results = read_results(parsed.model)
    name = parsed.data or results.get("data")
    if not name:
        raise ValueError("specify a data set with --data")
    folder = folder_of(name)
    same_folder = folder is not None and str(folder.resolve()) == results.get("data_folder")
    data = load_data(
        name,
        root=parsed.data_root,
        image_resolution=_preprocessing(model).resize_size,
        grayscale=model.in_channels == 1,
        hold_out=same_folder or name == results.get("data"),  # excludes training images
    )
    categories = getattr(model, "categories", None)
    if categories and tuple(categories) != data.classes:
        raise ValueError(f"{name} does not have the network's classes: {', '.join(categories)}")
    return data.prepared(_preprocessing(model))


def show_evaluation(metrics: Mapping[str, Any]) -> None:
    """Print a table of evaluation metrics."""
    shares = metrics["per_class"].items()
    # The accuracy for a class without images is nan, or None in results.json.
    rows = [(f"accuracy, {k}", "" if v is None or v != v else f"{v:.2%}") for k, v in shares]
    rows += [
        ("accuracy, all classes", f"{metrics['top1']:.2%}"),
        ("top-5 accuracy", f"{metrics['top5']:.2%}"),
        ("calibration error", f"{metrics['calibration_error']:.2%}"),
        ("loss", f"{metrics['loss']:.4f}"),
    ]
    count = int(torch.as_tensor(metrics["confusion"]).sum())
    show_table((f"{count:,} test images", ""), rows)
