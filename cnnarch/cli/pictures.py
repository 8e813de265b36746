"""draw: one picture of a network, or of what it sees and says."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cnnarch
from cnnarch.cli.models import load_model, load_test_data
from cnnarch.facts.builders import BUILDERS
from cnnarch.facts.sheets import aliases

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "run_draw"]


class Picture(NamedTuple):
    """What it is drawn from, and the options of the command that it takes."""

    model: bool
    images: bool
    options: tuple[str, ...] = ()


PICTURES = {
    "data_grid": Picture(model=False, images=True, options=("rows", "columns")),
    "predictions": Picture(model=True, images=True, options=("rows", "columns")),
    "confusion_matrix": Picture(model=True, images=True),
    "embeddings": Picture(model=True, images=True, options=("method", "num_samples")),
    "gradcam": Picture(model=True, images=True, options=("layer", "columns")),
    "integrated_gradients": Picture(model=True, images=True, options=("columns",)),
    "feature_maps": Picture(model=True, images=True, options=("layers", "columns")),
    "filters": Picture(model=True, images=False, options=("layer", "rows", "columns")),
    "diagram": Picture(model=True, images=False),
}
"""The functions of `cnnarch.viz` that draw a network or its data."""

_OPTIONS = ("rows", "columns", "layer", "layers", "method", "num_samples")


def run_draw(parsed: argparse.Namespace) -> int:
    """Write one picture to a file."""
    name, picture = parsed.picture, PICTURES[parsed.picture]
    options = {key: value for key in _OPTIONS if (value := getattr(parsed, key)) is not None}
    for key in options:
        if key not in picture.options:
            takes = ", ".join(f"--{_dashed(o)}" for o in picture.options) or "no options"
            raise ValueError(f"{name} does not take --{_dashed(key)}; it takes {takes}")
    file = Path(parsed.output or f"{name}.png")
    _draw(name, picture, parsed, options).savefig(file)
    print(file)
    return 0


def _draw(
    name: str, picture: Picture, parsed: argparse.Namespace, options: dict[str, Any]
) -> "Figure":
    from cnnarch import viz
    from cnnarch.training import evaluate, load_data

    if not (picture.model or parsed.model):
        if not parsed.data:
            raise ValueError("name a data set with --data, or the folder of a run with --model")
        data = load_data(parsed.data, root=parsed.data_root)
        return viz.data_grid(getattr(data, parsed.split), **options)
    model = _untrained(parsed) if name == "diagram" else load_model(parsed)
    inputs: list[Any] = [model] if picture.model else []
    if picture.images:
        inputs.append(getattr(load_test_data(model, parsed), parsed.split))
    if name == "confusion_matrix":
        inputs = [evaluate(*inputs).confusion, inputs[1].classes]
    draw: Callable[..., Figure] = getattr(viz, name)
    return draw(*inputs, **options)


def _untrained(parsed: argparse.Namespace) -> "cnnarch.ImageClassifier":
    """A network whose weights do not matter, so that none are fetched."""
    name = aliases().get(parsed.model, parsed.model)
    return cnnarch.get_model(name) if name in BUILDERS else load_model(parsed)


def _dashed(option: str) -> str:
    return option.replace("_", "-")
