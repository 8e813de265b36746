"""Plot the results of a run and write an HTML report that contains the plots."""

import base64
import struct
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import cnnarch.viz as viz
from cnnarch.contract.classifier import ImageClassifier
from cnnarch.facts.text import is_number
from cnnarch.training.data import ImageData
from cnnarch.training.engine import Evaluation
from cnnarch.training.history import History
from cnnarch.viz._figure import DOTS

__all__ = ["draw_pictures", "write_report"]

EMBEDDED_IMAGES = 500
TITLES = {
    "curves": "Loss and accuracy",
    "predictions": "Predictions on test images",
    "confusion": "Confusion matrix",
    "embeddings": "Embedding of test images",
    "gradcam": "Grad-CAM",
    "integrated_gradients": "Integrated gradients",
    "feature_maps": "Feature maps",
    "filters": "Filters of the first layer",
    "data": "Training images",
    "diagram": "Architecture",
}
"""The plots and their headings, in the order in which they appear in the report."""
CSS_INCH = 96  # pixels

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
.lead { font-size: 1.15rem; } .wide { overflow-x: auto; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
@media (max-width: 40rem) { .wide img { max-width: none; } } /* phones scroll wide pictures */
table { border-collapse: collapse; } td, th { padding: .25rem .8rem .25rem 0; text-align: left;
  border-bottom: 1px solid #ddd; vertical-align: top; font-weight: normal; } th { color: #555; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


def draw_pictures(
    model: ImageClassifier, data: ImageData, history: History, metrics: Evaluation, folder: Path
) -> list[str]:
    """Write a PNG file for each plot in `TITLES` and return the names of the plots.

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
    if len(data.test) < 4:  # too few for an embedding
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
        pictures: PNG files, keyed by their names in `TITLES`.
    """
    name, test = results["model"], results["test"]
    title = f"{name} on {results['data']}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">Accuracy {test["top1"]:.2%} on '
        f"{_counted(results['test_images'], 'test image')}, with {results['parameters']:,} "
        f"parameters, after {_counted(results['epochs'], 'epoch')} "
        f"({results['minutes']:.1f} minutes).</p>",
        *(_picture(key, pictures[key]) for key in TITLES if key in pictures),
        "<h2>Accuracy by class</h2>",
        _table((k, "" if v is None else f"{v:.2%}") for k, v in test["per_class"].items()),
        "<h2>Details</h2>",
        _table(_details(results)),
        f"<h2>Recipe</h2><pre>{escape(recipe)}</pre>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{escape(title)}</title><style>{STYLE}</style>'
    )
    body = "\n".join(sections)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n',
        encoding="utf-8",
    )


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _details(results: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    test = results["test"]
    yield "Loss on test images", f"{test['loss']:.4f}"
    yield "Top-5 accuracy", f"{test['top5']:.2%}"
    yield "Calibration error", f"{test['calibration_error']:.2%}"
    yield "Training images", f"{results['train_images']:,}"
    yield "Seed", str(results["seed"])
    yield "Command", results["command"]
    yield "Machine", f"{results['machine']['cpu']}, {results['machine']['cores']} cores"
    yield "Versions", ", ".join(f"{k} {v}" for k, v in results["versions"].items())


def _picture(name: str, path: Path) -> str:
    title = escape(TITLES[name])
    picture = path.read_bytes()
    (dots,) = struct.unpack_from(">I", picture, 16)  # the PNG image's width
    data = base64.b64encode(picture).decode()
    size = f'width="{dots * CSS_INCH // DOTS}"'  # the size in print; keeps text readable
    image = f'<img alt="{title}" {size} src="data:image/png;base64,{data}">'
    return f'<h2>{title}</h2><div class="wide">{image}</div>'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = (
        f"<tr><th>{escape(name)}</th><td{_kind(value)}>{escape(value)}</td></tr>"
        for name, value in rows
    )
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _kind(value: str) -> str:
    return ' class="number"' if value and is_number(value) else ""
