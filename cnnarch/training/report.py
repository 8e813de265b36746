"""Plot the results of a run and write an HTML report that contains the plots."""

import base64
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure

import cnnarch.viz as viz
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.text import is_number
from cnnarch.training.data import ImageData
from cnnarch.training.evaluation import Evaluation
from cnnarch.training.history import History
from cnnarch.viz._figure import DOTS
from cnnarch.weights.runs import PICTURES

EMBEDDED_IMAGES = 500
CSS_INCH = 96  # pixels
TEMPLATE = "report.html.jinja"


def draw_pictures(
    model: ImageClassifier, data: ImageData, history: History, metrics: Evaluation, folder: Path
) -> list[str]:
    """Write a PNG file for each plot in `PICTURES` and return the names of the plots.

    Args:
        model: the trained network.
        data: the data set that it was trained on.
        history: metrics of each epoch.
        metrics: metrics on the test images.
        folder: folder to write the files to.
    """
    size = data.preprocessing.crop_size
    drawings: dict[str, Callable[[], Figure]] = {
        "curves": lambda: viz.curves(history),
        "predictions": lambda: viz.predictions(model, data.test),
        "confusion": lambda: viz.confusion_matrix(metrics.confusion, data.classes),
        "embeddings": lambda: viz.embeddings(model, data.test, num_samples=EMBEDDED_IMAGES),
        "gradcam": lambda: viz.gradcam(model, data.test),
        "integrated_gradients": lambda: viz.integrated_gradients(model, data.test),
        "feature_maps": lambda: viz.feature_maps(model, data.test),
        "filters": lambda: viz.filters(model),
        "data": lambda: viz.data_grid(data.train),
        "diagram": lambda: viz.diagram(model, (data.channels, size, size)),
    }
    if len(data.test) < 4:  # too few images to embed
        del drawings["embeddings"]
    for name, draw in drawings.items():
        draw().savefig(folder / f"{name}.png")
    return list(drawings)


def write_report(
    path: Path, results: Mapping[str, Any], recipe: str, pictures: Mapping[str, Path]
) -> None:
    """Write a self-contained HTML page.

    Args:
        path: the HTML file.
        results: the contents of results.json.
        recipe: the contents of recipe.yaml.
        pictures: PNG files, keyed by their names in `PICTURES`.
    """
    folder = PackageLoader("cnnarch", "training")
    template = Environment(loader=folder, autoescape=True).get_template(TEMPLATE)
    accuracies = results["test"]["per_class"].items()
    page = template.render(
        results,
        pictures=[(*PICTURES[k], *_embedded(pictures[k])) for k in PICTURES if k in pictures],
        accuracies=[(name, "" if v is None else f"{v:.2%}") for name, v in accuracies],
        details=list(_details(results)),
        recipe=recipe,
        is_number=is_number,
    )
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _details(results: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    test = results["test"]
    yield "Loss on test images", f"{test['loss']:.4f}"
    if "top5" in test:
        yield "Top-5 accuracy", f"{test['top5']:.2%}"
    yield "F1, mean over classes", f"{test['macro_f1']:.2%}"
    yield "Calibration error", f"{test['calibration_error']:.2%}"
    yield "Training images", f"{results['train_images']:,}"
    yield "Seed", str(results["seed"])
    yield "Command", results["command"]
    used = results["training"]
    yield "Trained on", f"{used['device']}, precision {used['precision']}, {used['step']}"
    yield "Machine", f"{results['machine']['cpu']}, {results['machine']['cores']} cores"
    yield "Versions", ", ".join(f"{k} {v}" for k, v in results["versions"].items())


def _embedded(path: Path) -> tuple[int, str]:
    """Return a PNG image's width on the page, in CSS pixels, and its contents in base64."""
    picture = path.read_bytes()
    (dots,) = struct.unpack_from(">I", picture, 16)  # the image's width in pixels
    return dots * CSS_INCH // DOTS, base64.b64encode(picture).decode()
