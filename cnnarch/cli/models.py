"""evaluate and predict: what a trained network is worth and what it says."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import cnnarch
from cnnarch.cli.tables import show_table
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import aliases

if TYPE_CHECKING:
    from cnnarch.contract.classifier import ImageClassifier
    from cnnarch.training import ImageData

__all__ = ["held_out", "run_evaluate", "run_predict", "show_figures", "trained"]


def run_evaluate(parsed: argparse.Namespace) -> int:
    """Accuracy, calibration and loss on the test images of a data set.

    They are all images of a folder without test images that the network was not trained on.
    """
    from cnnarch.training import evaluate

    model = trained(parsed)
    data = held_out(model, parsed)
    show_figures(evaluate(model, data.test)._asdict())
    return 0


def run_predict(parsed: argparse.Namespace) -> int:
    """The likeliest classes of image files, or of a data set's first test images.

    Files that cannot be read are told at the end, and the status is 1 then.
    """
    from cnnarch.inference.predictor import Predictor

    if bool(parsed.files) == bool(parsed.data):
        raise ValueError("name image files, or a data set with --data")
    model = trained(parsed).eval()
    _preprocessing(model)
    if parsed.top is not None and not 1 <= parsed.top <= model.num_classes:
        raise ValueError(
            f"--top must lie in 1 to {model.num_classes}, the network's classes, got {parsed.top}"
        )
    predictor = Predictor(model, top=parsed.top or min(3, model.num_classes))
    if parsed.data:
        images = held_out(model, parsed).test
        indices = torch.arange(min(10, len(images)))
        found = predictor(images.pixels[indices])
        names = [f"test image {i + 1}: {images.classes[images.labels[i]]}" for i in indices]
    else:
        from cnnarch.images import find_images

        found = predictor(find_images(parsed.files))
        names = [prediction.name for prediction in found]
    rows = [
        (name, *(f"{c} {share:.1%}" for c, share in zip(p.classes, p.probabilities, strict=True)))
        for name, p in zip(names, found, strict=True)
    ]
    if rows:
        show_table(("image", "most likely", *[""] * (predictor.top - 1)), rows)
    for unreadable in found.unreadable:
        print("cnnarch:", " ".join(unreadable.reason.split()), file=sys.stderr)
    return 1 if found.unreadable else 0


def trained(parsed: argparse.Namespace) -> "ImageClassifier":
    """A saved network, or one of the library's with a checkpoint of the catalog."""
    if not parsed.model:
        raise ValueError("name the network with --model, such as the folder of a run")
    name = aliases().get(parsed.model, parsed.model)
    if name in BUILDERS and not Path(name).exists():
        return cnnarch.get_model(name, weights=parsed.weights)
    folder = Path(parsed.model)
    if (folder / "recipe.yaml").exists() and not (folder / "config.json").exists():
        raise ValueError(f"the run in {folder} is not finished; train goes on with --resume")
    return cnnarch.from_pretrained(parsed.model)


def _preprocessing(model: Any) -> Any:
    if getattr(model, "preprocessing", None) is None:
        raise ValueError("the checkpoint does not say how images are prepared for it")
    return model.preprocessing


def held_out(model: "ImageClassifier", parsed: argparse.Namespace) -> "ImageData":
    """The data set that was named, or else the run's, prepared as the network wants it."""
    from cnnarch.training import load_data, read_results

    results = read_results(parsed.model)
    name = parsed.data or results.get("data")
    if not name:
        raise ValueError("name a data set with --data")
    gray = model.in_channels == 1
    size = _preprocessing(model).resize_size
    data = load_data(
        name,
        root=parsed.data_root,
        image_resolution=size,
        grayscale=gray,
        hold_out=_is_trained_on(name, results),
    )
    known = getattr(model, "categories", None)
    if known and tuple(known) != data.classes:
        raise ValueError(f"the network's classes are not those of {name}: {', '.join(known)}")
    return data.prepared(_preprocessing(model))


def _is_trained_on(name: str, results: Mapping[str, Any]) -> bool:
    """Whether a run trained on this data set, by the name it had then or as the same folder."""
    from cnnarch.training.datasets import named_folder

    folder = named_folder(name)
    same = folder is not None and str(folder.resolve()) == results.get("data_folder")
    return same or name == results.get("data")


def show_figures(figures: Mapping[str, Any]) -> None:
    """A table of an evaluation."""
    shares = figures["per_class"].items()
    # A class without an image has none: nan, which JSON does not know.
    rows = [(f"accuracy, {k}", "" if v is None or v != v else f"{v:.2%}") for k, v in shares]
    rows += [
        ("accuracy, all classes", f"{figures['top1']:.2%}"),
        ("label among the five likeliest", f"{figures['top5']:.2%}"),
        ("calibration error", f"{figures['calibration_error']:.2%}"),
        ("loss", f"{figures['loss']:.4f}"),
    ]
    count = int(torch.as_tensor(figures["confusion"]).sum())
    show_table((f"{count:,} test images", ""), rows)
