"""Draw the picture on the front page: `python -m docs.generators.front`.

It needs the extra `pretrained` and scikit-image, and is therefore stored and not drawn by each
build.
"""

from pathlib import Path

import numpy as np
import skimage.data
import torch
from matplotlib.figure import Figure, SubFigure

import cnnarch
from cnnarch.inference import Predictor

PICTURE = Path(__file__).parent.parent / "_static/front.webp"
NETWORK = "efficientnet_lite0"
TOP = 4  # classes
STAGES = ("stage1", "stage3", "stage5", "stage7")
MAPS = 5  # per stage
INK, LIGHT_BLUE = "#1f2937", "#bfd3fb"


def draw() -> Figure:
    """Draw a photograph with its classes, its feature maps and its Grad-CAM."""
    torch.manual_seed(0)
    model = cnnarch.get_model(NETWORK, weights="DEFAULT").eval()
    photograph = skimage.data.cat()
    figure = Figure(figsize=(9.6, 3.7), layout="constrained")
    left, middle, right = figure.subfigures(1, 3, width_ratios=(1.15, 1.45, 1.1))
    show_predictions(left, model, photograph)
    show_maps(middle, model, photograph)
    show_gradcam(right, model, photograph)
    return figure


def show_predictions(figure: SubFigure, model: cnnarch.ImageClassifier, image: np.ndarray) -> None:
    (found,) = Predictor(model, top=TOP)([image])
    figure.suptitle("Predictor", color=INK, fontfamily="monospace")
    picture, bars = figure.subplots(2, 1, height_ratios=(1.9, 1))
    picture.imshow(image)
    picture.set_axis_off()
    bars.barh(range(TOP), found.probabilities, color=LIGHT_BLUE)
    named = zip(found.classes, found.probabilities, strict=True)
    for i, (name, probability) in enumerate(named):
        bars.text(0.01, i, f"{name}, {probability:.0%}", va="center", color=INK)
    bars.set_xlim(0, max(found.probabilities))
    bars.invert_yaxis()
    bars.set_axis_off()


def show_maps(figure: SubFigure, model: cnnarch.ImageClassifier, image: np.ndarray) -> None:
    drawn = cnnarch.viz.feature_maps(model, image, STAGES, columns=MAPS)
    figure.suptitle("viz.feature_maps", color=INK, fontfamily="monospace")
    cells = figure.subplots(len(STAGES), MAPS)
    sources = np.array(drawn.axes).reshape(len(STAGES), MAPS + 1)[:, 1:]
    for axes, source in zip(cells.flatten(), sources.flatten(), strict=True):
        copy_images(axes, source)
        title = axes.set_title(source.get_title(loc="left"), fontsize=9, loc="left", color=INK)
        title.set_in_layout(False)  # it may be wider than its column


def show_gradcam(figure: SubFigure, model: cnnarch.ImageClassifier, image: np.ndarray) -> None:
    drawn = cnnarch.viz.gradcam(model, image)
    above, below = drawn.axes
    figure.suptitle("viz.gradcam", color=INK, fontfamily="monospace")
    axes = figure.subplots()
    copy_images(axes, below)
    axes.set_title(f"for “{above.get_title()}”", fontsize=10, color=INK)


def copy_images(axes, source) -> None:
    """Show the images of another figure's axes."""
    for shown in source.get_images():
        axes.imshow(shown.get_array(), cmap=shown.cmap, norm=shown.norm, alpha=shown.get_alpha())
    axes.set_axis_off()


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=160, pil_kwargs={"quality": 88, "method": 6})
